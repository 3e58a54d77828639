"""The frozen target: one forward pass gives hidden states, and with its head the teacher's distribution."""

# Shapes: B sequences, T tokens, D hidden size, V vocabulary.

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vllm_mtp.common.errors import InputError
from vllm_mtp.contract.fingerprint import (
    EMBEDDING_NAMES,
    HEAD_NAMES,
    fingerprint_rows,
    stored_rows,
    stored_weights_sha256,
    target_fingerprint,
)
from vllm_mtp.module.shared_head import LogitsTransform, SharedHead
from vllm_mtp.training.frozen.loading import as_torch_dtype, load_config, load_model, load_tokenizer
from vllm_mtp.training.transfer import to_device

PLAIN_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_NUM_PROBED = 16
_MAX_DIFFERENCE = 0.05


@dataclass(frozen=True, kw_only=True, slots=True)
class FrozenTarget:
    """A Hugging Face causal LM that nothing changes."""

    name: str
    """Hub id, or the folder's name."""
    model: Any
    """The transformers model, in `dtype`."""
    tokenizer: Any
    head: SharedHead
    device: torch.device
    dtype: torch.dtype
    weights_sha256: str = ""
    """Hash of a row of every tensor (`stored_weights_sha256`); empty for a target that is not of safetensors."""

    @classmethod
    def load(
        cls,
        path: str,
        *,
        name: str = "",
        device: str = "auto",
        dtype: str = "auto",
        revision: str | None = None,
        trust_remote_code: bool = False,
    ) -> "FrozenTarget":
        """Loads a target and checks that its head is understood.

        Args:
            path: a folder or a Hub id.
            name: what to call it; empty: the Hub id, or the folder's name.
            device: "auto", "cpu" or "cuda".
            dtype: "float32", "bfloat16", "float16", or "auto": on a GPU bfloat16 (float16 where it has none), on a CPU
                the faster of float32 and bfloat16.
            revision: branch, tag or commit of a Hub id; None: its default branch.
            trust_remote_code: run code that comes with the target.

        Raises:
            ValueError: if the target cannot be loaded, or its logits are not its head applied to its last hidden
                states (with soft cap and scale), which is what vLLM gives a drafter.
        """
        where = chosen_device(device)
        attend_without_plans(where)
        source: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
        config = load_config(path, by_transformers=True, **source)
        # Given to transformers, which keeps in float32 what a target computes in it: a cast afterwards would round the
        # angles of its positions, and biases that choose experts.
        asked = chosen_dtype(dtype, where, config)
        model = load_model(path, config, asked, **source)
        tokenizer = load_tokenizer(path, **source)
        model = model.eval().requires_grad_(False).to(where)
        target = cls(
            name=name or name_of(path),
            model=model,
            tokenizer=tokenizer,
            head=_head_of(model),
            device=where,
            dtype=asked,
            weights_sha256=stored_weights_sha256(path, revision=revision),
        )
        target._check()
        return target

    @property
    def whole_config(self) -> Any:
        """transformers' config, with the parts of it that are no text model's."""
        return self.model.config

    @property
    def config(self) -> Any:
        """The text model's config."""
        return self.whole_config.get_text_config()

    @property
    def vocab_size(self) -> int:
        return int(self.config.vocab_size)

    @property
    def dtype_name(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    @property
    def body(self) -> Any:
        """The model without its head."""
        model = self.model
        found = (
            model.base_model,
            model.get_decoder(),
            *(getattr(model, name, None) for name in ("model", "transformer")),
        )
        return next((one for one in found if one is not None and one is not model), model)

    @property
    def computed_by(self) -> str:
        """What computes the hidden states, where that is not transformers."""
        return ""

    @contextmanager
    def reading(self) -> Iterator[None]:
        """While hidden states are asked for again and again; what is needed for them alone goes afterwards."""
        yield

    @torch.no_grad()
    def hidden_states(self, ids_BT: Tensor) -> Tensor:
        """Hidden states after the final norm, [B, T, D], in the target's dtype."""
        output = self.body(input_ids=to_device(ids_BT, self.device), use_cache=False)
        return output.last_hidden_state.to(self.dtype)  # type: ignore[no-any-return]

    def fingerprint(self) -> dict[str, Any]:
        """What config.json of a drafter says of its target."""
        return target_fingerprint(
            name=self.name,
            architecture=architecture_of(self.whole_config),
            hidden_size=self.config.hidden_size,
            vocab_size=self.vocab_size,
            vocabulary=self.tokenizer.get_vocab(),
            embedding_RD=self.head.embedding_VD[fingerprint_rows(self.vocab_size)],
            head_RD=self.head.head_VD[fingerprint_rows(self.vocab_size)],
        )

    def _check(self) -> None:
        """Refuses a target whose logits are something else than head(last hidden state) with cap and scale, and one
        whose hidden states depend on what follows."""
        kind = type(self.model).__name__
        try:
            logits_TV, found_TV, hidden_TD, otherwise_TD = self._probe()
        except Exception as error:  # of any kind in code of a target's own
            reason = str(error).partition("\n")[0]
            raise InputError("target", f"{kind} does not read plain text: {type(error).__name__}: {reason}") from error
        if not logits_TV.isfinite().all():
            reason = f"computes no finite logits in {self.dtype_name}; give another dtype, or whole weights"
        elif not _difference(otherwise_TD, hidden_TD) < _MAX_DIFFERENCE:
            reason = "is no causal LM: its hidden states depend on the tokens that follow"
        elif found_TV.shape != logits_TV.shape or not _difference(found_TV, logits_TV) < _MAX_DIFFERENCE:
            reason = "has logits that are not its LM head applied to its last hidden states: a head not known here"
        else:
            return
        raise InputError("target", f"{kind} {reason}")

    @torch.no_grad()
    def _probe(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Logits of some text by the model and by its head, and the hidden states of its beginning, with two ends."""
        ids_BT = torch.arange(_NUM_PROBED, device=self.device)[None] % self.vocab_size
        other_BT = torch.cat((ids_BT[:, : _NUM_PROBED // 2], ids_BT[:, : _NUM_PROBED // 2]), dim=1)
        logits_TV = self.model(input_ids=ids_BT, use_cache=False).logits[0].float()
        hidden_TD, otherwise_TD = self.hidden_states(ids_BT)[0], self.hidden_states(other_BT)[0]
        beginning = slice(_NUM_PROBED // 2)
        return logits_TV, self.head.logits(hidden_TD), hidden_TD[beginning], otherwise_TD[beginning]


def _difference(found: Tensor, expected: Tensor) -> Tensor:
    """The largest difference, as a share of the largest value."""
    return (found.float() - expected.float()).abs().max() / expected.float().abs().max().clamp(min=1e-6)


def _head_of(model: Any) -> SharedHead:
    """The model's embedding and LM head, by reference.

    Raises:
        InputError: if it has none, or quantized ones.
    """
    output, kind = model.get_output_embeddings(), type(model).__name__
    if output is None:
        raise InputError("target", f"{kind} has no LM head that a drafter could share")
    embedding = model.get_input_embeddings()
    for layer, name in ((embedding, "embedding"), (output, "LM head")):
        weight = getattr(layer, "weight", None)
        if weight is None or weight.ndim != 2 or weight.dtype not in PLAIN_DTYPES:
            raise InputError(
                "target", f"the {name} of {kind} is quantized, and a drafter shares it: quantize all but the {name}"
            )
    return SharedHead(
        embedding_VD=embedding.weight,
        head_VD=output.weight,
        bias_V=getattr(output, "bias", None),
        transform=LogitsTransform.from_target(model.config.get_text_config()),
    )


def name_of(path: str) -> str:
    """What a target is called: its Hub id, or its folder's name."""
    return Path(path).resolve().name if Path(path).exists() else path


def architecture_of(config: Any) -> str:
    """The class that a target's config.json names; "unknown" where it names none."""
    return config.architectures[0] if config.architectures else "unknown"


def chosen_device(device: str) -> torch.device:
    """The device of "auto", "cpu" or "cuda".

    Raises:
        InputError: for a GPU that is not there.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("device", "expected a CUDA GPU, torch finds none. Leave it out, or give cpu.")
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)


def attend_without_plans(device: torch.device) -> None:
    """On a GPU torch's own flash attention, for the whole process: cuDNN's, which torch prefers on some GPUs, plans for
    as long as half a second at every new shape of a batch, and batches of conversations have a hundred.

    Source: FunASR's issue 3704 and its measurements on a B200; here it was not measured.
    """
    if device.type == "cuda":
        torch.backends.cuda.enable_cudnn_sdp(False)


def chosen_dtype(dtype: str, device: torch.device, config: Any) -> torch.dtype:
    """The torch dtype of a target's name for one, "auto" among them, on a device."""
    if dtype != "auto":
        return as_torch_dtype(dtype)
    if device.type == "cpu":
        return faster_cpu_dtype(config.get_text_config().hidden_size)
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def serving_dtype(target: str, dtype: str, *, revision: str | None = None, trust_remote_code: bool = False) -> str:
    """What to give vLLM as dtype: "auto" stays on a GPU, and becomes the faster of both on a CPU."""
    if dtype != "auto" or torch.cuda.is_available():
        return dtype
    config = load_config(target, revision=revision, trust_remote_code=trust_remote_code)
    return str(faster_cpu_dtype(config.get_text_config().hidden_size)).removeprefix("torch.")


@torch.no_grad()
def faster_cpu_dtype(hidden_size: int, num_tokens: int = 256) -> torch.dtype:
    """float32, unless this processor multiplies faster in bfloat16; timed on products of the target's size.

    Processors without bf16 instructions are up to 30 times slower in it, those with them several times as fast.
    """
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        weight_DD, hidden_TD = torch.ones(hidden_size, hidden_size, dtype=dtype), torch.ones(1, 1, dtype=dtype)
        hidden_TD = hidden_TD.expand(num_tokens, hidden_size).contiguous()
        hidden_TD @ weight_DD
        start = time.perf_counter()
        for _ in range(4):
            hidden_TD @ weight_DD
        seconds[dtype] = time.perf_counter() - start
    return min(seconds, key=lambda dtype: seconds[dtype])


def config_and_tokenizer(
    target: str, *, revision: str | None = None, trust_remote_code: bool = False, by_transformers: bool = False
) -> tuple[Any, Any]:
    """A target's transformers config and tokenizer, without its weights.

    Args:
        target: folder or Hub id.
        revision: branch, tag or commit of a Hub id; None: its default branch.
        trust_remote_code: run code that comes with the target.
        by_transformers: refuse what transformers cannot load, rather than vLLM.

    Raises:
        ValueError: if there is no such model.
    """
    source: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    return load_config(target, by_transformers=by_transformers, **source), load_tokenizer(target, **source)


def end_ids(target: str, config: Any, tokenizer: Any, *, revision: str | None = None) -> frozenset[int]:
    """Token ids that end an answer: those of generation_config.json, where some chat models alone name their end of
    turn, of the config, and the tokenizer's end of text.

    Args:
        target: folder or Hub id.
        config, tokenizer: the target's (`config_and_tokenizer`).
        revision: of a Hub id.
    """
    from transformers import GenerationConfig

    try:
        generation = GenerationConfig.from_pretrained(target, revision=revision).eos_token_id
    except (OSError, ValueError):  # most small models have no such file
        generation = None
    named = (generation, config.get_text_config().eos_token_id, tokenizer.eos_token_id)
    lists = [[ids] if isinstance(ids, int) else ids or [] for ids in named]
    return frozenset(token for ids in lists for token in ids)


def fingerprint_of(target: str, config: Any, tokenizer: Any, *, revision: str | None = None) -> dict[str, Any]:
    """The fingerprint of a target without loading it; the weights of a Hub id are fetched where they are missing.

    Args:
        target: folder or Hub id.
        config, tokenizer: the target's (`config_and_tokenizer`).
        revision: of a Hub id.

    Raises:
        ValueError: if its embedding is not stored in safetensors.
    """
    text_config = config.get_text_config()
    vocab_size = text_config.vocab_size
    embedding_RD = stored_rows(target, EMBEDDING_NAMES, vocab_size, download=True, revision=revision)
    if embedding_RD is None:
        names = " or ".join(EMBEDDING_NAMES)
        raise InputError("target", f"expected {names} in safetensors files of {target}, found none")
    head_RD = stored_rows(target, HEAD_NAMES, vocab_size, revision=revision)
    return target_fingerprint(
        name=name_of(target),
        architecture=architecture_of(config),
        hidden_size=text_config.hidden_size,
        vocab_size=vocab_size,
        vocabulary=tokenizer.get_vocab(),
        embedding_RD=embedding_RD,
        head_RD=embedding_RD if head_RD is None else head_RD,
    )
