"""Does this drafter belong to this target, and was it trained for such contexts? Asked wherever the two meet.

Serving (serving/target_check.py), `eval`, `bench acceptance` and `doctor` ask here, so that they refuse the same pairs
in the same words.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from vllm_mtp.contract.config import MTPConfig
from vllm_mtp.contract.fingerprint import (
    EMBEDDING_NAMES,
    HEAD_NAMES,
    stored_rows,
    stored_tensors,
    tokenizer_sha256,
    weights_sha256,
)

if TYPE_CHECKING:
    from torch import Tensor

OTHER_WEIGHTS = (
    "The target's weights are not those the drafter was distilled from (%s): a fine-tuned or quantized target? "
    "Output stays exactly the target's, acceptance may fall. To check, compare the acceptance length in the "
    "log or in /metrics with the drafter's model card; `vllm-mtp train --initial` adapts the drafter."
)
"""A warning; the target's name is to be put in."""


_SHARED_NAME = "embed_tokens.weight"
IN_DECODER = ".decoder."
"""In the name of an embedding that is a part of a part, where vLLM's draft models do not find it (OPT)."""


def why_another_target(
    config: MTPConfig, *, target: str, hidden_size: int, vocab_size: int, vocabulary: Mapping[str, int] | None
) -> str | None:
    """What is wrong with serving this drafter with this target, and what to do; None: nothing.

    Args:
        config: the drafter's.
        target: the target's folder or Hub id.
        hidden_size: H of the target.
        vocab_size: V of the target.
        vocabulary: ids of the target's tokens; None: not compared.
    """
    fingerprint = config.target_fingerprint or {}
    faults = [
        f"{name} {own}, the target has {found}"
        for name, own, found in (
            ("hidden_size", config.hidden_size, hidden_size),
            ("vocab_size", config.vocab_size, vocab_size),
        )
        if own != found
    ]
    expected = fingerprint.get("tokenizer_sha256")
    if not faults and expected and vocabulary is not None and (found := tokenizer_sha256(vocabulary)) != expected:
        faults.append(
            f"tokenizer {expected[:12]}..., the target has {found[:12]}... (if its ids mean the same, as in a copy "
            "with one token more, delete tokenizer_sha256 from the drafter's config.json)"
        )
    if not faults:
        return None
    return (
        f"This drafter was made for another target ({fingerprint.get('name', 'not named')}): {'; '.join(faults)}. "
        f"Use it with its own target, or train one for {target} (`vllm-mtp train`)."
    )


def stored_embedding(target: str, *, revision: str | None = None) -> str:
    """Name of the tensor that the target's embedding is stored as; the usual one where none is known.

    Args:
        target: folder, or Hub id that is in the cache.
        revision: of a Hub id.
    """
    names = [name for name, _ in stored_tensors(target, revision=revision) if name.endswith(EMBEDDING_NAMES)]
    return min(names, key=len, default=_SHARED_NAME)


def is_usual_embedding(name: str) -> bool:
    """Whether an embedding stored as that is where vLLM's draft models find it."""
    return name.endswith(_SHARED_NAME) and IN_DECODER not in name


def why_not_served(target: str, *, revision: str | None = None) -> str | None:
    """Why vLLM may not start with any drafter for this target, by the name of its embedding; None: nothing known.

    vLLM's draft models share what its class of the target calls `model.embed_tokens` or `model.embedding`.

    Args:
        target: folder, or Hub id that is in the cache.
        revision: of a Hub id.
    """
    name = stored_embedding(target, revision=revision)
    if is_usual_embedding(name):
        return None
    return (
        f"the target's embedding is {name}: where vLLM's class of the target has no model.embed_tokens (Falcon, GPT-2, "
        "GPT-J, GPT-NeoX, OPT, BLOOM, Mamba 2), vLLM ends when it is given a drafter. Before a long training, see "
        "whether it starts with a drafter of a few steps"
    )


def has_the_weights(
    config: MTPConfig, target: str, *, revision: str | None = None, cache_dir: str | None = None
) -> bool | None:
    """Whether rows of the target's embedding and head are those of the drafter's fingerprint; None: not known.

    Args:
        config: the drafter's.
        target: folder, or Hub id that is in the cache.
        revision, cache_dir: of a Hub id.
    """
    expected = (config.target_fingerprint or {}).get("weights_sha256")
    if not expected:
        return None

    def rows(suffix: tuple[str, ...]) -> "Tensor | None":
        return stored_rows(target, suffix, config.vocab_size, revision=revision, cache_dir=cache_dir)

    embedding_RD = rows(EMBEDDING_NAMES)
    if embedding_RD is None:
        return None
    head_RD = rows(HEAD_NAMES)
    return bool(weights_sha256(embedding_RD, embedding_RD if head_RD is None else head_RD) == expected)


def beyond_training(config: MTPConfig, context: int) -> str | None:
    """A warning for contexts longer than what the drafter was trained on, with what to do; None: nothing to say.

    Args:
        config: the drafter's; one without `trained_length` may have been trained on anything.
        context: the longest context that may come, in tokens.
    """
    if config.trained_length is None or context <= config.trained_length:
        return None
    return (
        f"The drafter was trained on contexts of up to {config.trained_length:,} tokens and may meet {context:,} here: "
        "beyond its length fewer drafts are accepted, the more so the longer the context (output stays the target's). "
        f"`vllm-mtp bench acceptance` shows acceptance by context; `vllm-mtp train --sequence-length {context}` (or as "
        "long as your contexts are), with --initial and this drafter, trains it on longer rows."
    )
