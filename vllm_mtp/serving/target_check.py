"""Does this drafter belong to the target it is served with? Compared when vLLM builds the draft model."""

import logging
from typing import Any

from vllm_mtp.contract.config import MTPConfig
from vllm_mtp.contract.fingerprint import EMBEDDING_NAMES, HEAD_NAMES, stored_rows, tokenizer_sha256, weights_sha256

logger = logging.getLogger(__name__)


def check_target(config: MTPConfig, target: Any, download_dir: str | None = None) -> None:
    """Compares a drafter's config with vLLM's `ModelConfig` of the target.

    Other weights alone (a fine-tuned or quantized target) are one warning. `download_dir` is where vLLM has put the
    weights of a Hub id; None: the Hub's cache.

    Raises:
        ValueError: for another hidden size, vocabulary size or tokenizer.
    """
    faults = []
    if config.hidden_size != target.get_hidden_size():
        faults.append(f"hidden_size {config.hidden_size}, the target has {target.get_hidden_size()}")
    if config.vocab_size != target.get_vocab_size():
        faults.append(f"vocab_size {config.vocab_size}, the target has {target.get_vocab_size()}")
    fingerprint = config.target_fingerprint or {}
    if not faults and fingerprint.get("tokenizer_sha256") and not target.skip_tokenizer_init:
        vocabulary = _vocabulary(target)
        found = fingerprint["tokenizer_sha256"] if vocabulary is None else tokenizer_sha256(vocabulary)
        if found != fingerprint["tokenizer_sha256"]:
            faults.append(
                f"tokenizer {fingerprint['tokenizer_sha256'][:12]}..., the target has {found[:12]}... (if its ids mean "
                "the same, as in a copy with one token more, delete tokenizer_sha256 from the drafter's config.json)"
            )
    if faults:
        raise ValueError(
            f"This drafter was made for another target ({fingerprint.get('name', 'not named')}): {'; '.join(faults)}. "
            f"Serve it with its own target, or train one for {target.model} (`vllm-mtp train`)."
        )
    if config.max_position_embeddings < target.max_model_len:
        logger.warning(
            "The drafter covers %d positions and the target is served with max_model_len %d. Beyond that it drafts "
            "what it was not trained for, or, on vLLM's V1 model runner, there is no drafting for a whole batch with "
            "one longer sequence. Output stays the target's.",
            config.max_position_embeddings,
            target.max_model_len,
        )
    if fingerprint.get("weights_sha256") and _weights_differ(target, config, download_dir):
        logger.warning(
            "The target's weights are not those the drafter was distilled from (%s): a fine-tuned or quantized target? "
            "Output stays exactly the target's, acceptance may fall. To check, compare the acceptance length in the "
            "log or in /metrics with the drafter's model card; `vllm-mtp train` adapts the drafter.",
            fingerprint.get("name", "not named"),
        )


def _vocabulary(target: Any) -> dict[str, int] | None:
    """None for a tokenizer that transformers cannot read, with a warning."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            target.tokenizer, revision=target.tokenizer_revision, trust_remote_code=target.trust_remote_code
        )
    except (OSError, ValueError, ImportError) as error:
        logger.warning("The target's tokenizer was not compared with the drafter's: %s", str(error).partition("\n")[0])
        return None
    return dict(tokenizer.get_vocab())


def _weights_differ(target: Any, config: MTPConfig, download_dir: str | None) -> bool:
    """Whether rows of the target's embedding and head differ from the drafter's fingerprint; False if unreadable."""
    of_target: dict[str, Any] = {
        "model": target.model,
        "vocab_size": config.vocab_size,
        "revision": target.revision,
        "cache_dir": download_dir,
    }
    embedding_RD = stored_rows(suffix=EMBEDDING_NAMES, **of_target)
    if embedding_RD is None:
        return False
    head_RD = stored_rows(suffix=HEAD_NAMES, **of_target)
    assert config.target_fingerprint is not None
    found = weights_sha256(embedding_RD, embedding_RD if head_RD is None else head_RD)
    return bool(found != config.target_fingerprint["weights_sha256"])
