"""The frozen target: one forward pass gives hidden states, and with its head the teacher's distribution."""

# Shapes: B sequences, T tokens, D hidden size, V vocabulary.

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vllm_mtp.common.errors import InputError
from vllm_mtp.contract.fingerprint import fingerprint_rows, stored_rows, stored_weights_sha256, target_fingerprint
from vllm_mtp.module.shared_head import LogitsTransform, SharedHead

_MAX_LOGIT_DIFFERENCE = 0.05


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
    def load(cls, path: str, *, name: str = "", device: str = "auto", dtype: str = "auto") -> "FrozenTarget":
        """Loads a target and checks that its head is understood.

        Args:
            path: a folder or a Hub id.
            name: what to call it; empty: the Hub id, or the folder's name.
            device: "auto", "cpu" or "cuda".
            dtype: "float32", "bfloat16", or "auto": bfloat16 on a GPU, the faster of both on a CPU.

        Raises:
            ValueError: if the target cannot be loaded, or its logits are not its head applied to its last hidden
                states (with soft cap and scale), which is what vLLM gives a drafter.
        """
        from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

        if device == "cuda" and not torch.cuda.is_available():
            raise InputError("device", "expected a CUDA GPU, torch finds none. Leave it out, or give cpu.")
        where = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
        try:
            # transformers' other kinds of attention pass over a soft cap of the scores (Gemma 2); vLLM does not.
            softcap = getattr(AutoConfig.from_pretrained(path).get_text_config(), "attn_logit_softcapping", None)
            model = AutoModelForCausalLM.from_pretrained(
                path,
                dtype=torch.float32 if where.type == "cpu" else "auto",
                attn_implementation="eager" if softcap else None,
            )
            tokenizer = AutoTokenizer.from_pretrained(path)
        except (OSError, ValueError) as error:
            raise _not_a_target(path, error) from error
        model = model.to(where).eval().requires_grad_(False)
        model = model.to(_choose_dtype(model, where, dtype))
        output = model.get_output_embeddings()
        if output is None:
            raise InputError("target", f"{type(model).__name__} has no LM head that a drafter could share")
        head = SharedHead(
            embedding_VD=model.get_input_embeddings().weight,
            head_VD=output.weight,
            bias_V=getattr(output, "bias", None),
            transform=LogitsTransform.from_target(model.config.get_text_config()),
        )
        target = cls(
            name=name or _name_of(path),
            model=model,
            tokenizer=tokenizer,
            head=head,
            device=where,
            dtype=model.dtype,
            weights_sha256=stored_weights_sha256(path),
        )
        target._check_head()
        return target

    @property
    def config(self) -> Any:
        """The text model's config."""
        return self.model.config.get_text_config()

    @property
    def vocab_size(self) -> int:
        return int(self.config.vocab_size)

    @property
    def dtype_name(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    @torch.no_grad()
    def hidden_states(self, ids_BT: Tensor) -> Tensor:
        """Hidden states after the final norm, [B, T, D], in the target's dtype."""
        output = self.model.base_model(input_ids=ids_BT.to(self.device), use_cache=False)
        return output.last_hidden_state  # type: ignore[no-any-return]

    def fingerprint(self) -> dict[str, Any]:
        """What config.json of a drafter says of its target."""
        return target_fingerprint(
            name=self.name,
            architecture=self.model.config.architectures[0] if self.model.config.architectures else "unknown",
            hidden_size=self.config.hidden_size,
            vocab_size=self.vocab_size,
            vocabulary=self.tokenizer.get_vocab(),
            embedding_RD=self.head.embedding_VD[fingerprint_rows(self.vocab_size)],
            head_RD=self.head.head_VD[fingerprint_rows(self.vocab_size)],
        )

    @torch.no_grad()
    def _check_head(self) -> None:
        """Refuses a target whose logits are something else than head(last hidden state) with cap and scale."""
        ids_BT = torch.arange(16, device=self.device)[None] % self.vocab_size
        expected_TV = self.model(input_ids=ids_BT, use_cache=False).logits[0].float()
        found_TV = self.head.logits(self.hidden_states(ids_BT)[0])
        difference = (expected_TV - found_TV).abs().max() / expected_TV.abs().max().clamp(min=1e-6)
        if not difference < _MAX_LOGIT_DIFFERENCE:
            raise InputError(
                "target",
                f"the logits of {type(self.model).__name__} are not its LM head applied to its last hidden states "
                f"(relative difference {difference:.2g}): vllm-mtp does not know this architecture's head.",
            )


def _name_of(path: str) -> str:
    return Path(path).resolve().name if Path(path).exists() else path


def _choose_dtype(model: Any, device: torch.device, dtype: str) -> torch.dtype:
    if dtype != "auto":
        return torch.float32 if dtype == "float32" else torch.bfloat16
    return torch.bfloat16 if device.type != "cpu" else faster_cpu_dtype(model.config.get_text_config().hidden_size)


def serving_dtype(target: str, dtype: str, *, revision: str | None = None, trust_remote_code: bool = False) -> str:
    """What to give vLLM as dtype: "auto" stays on a GPU, and becomes the faster of both on a CPU."""
    from transformers import AutoConfig

    if dtype != "auto" or torch.cuda.is_available():
        return dtype
    config = AutoConfig.from_pretrained(target, revision=revision, trust_remote_code=trust_remote_code)
    hidden_size = config.get_text_config().hidden_size
    return str(faster_cpu_dtype(hidden_size)).removeprefix("torch.")


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
    target: str, *, revision: str | None = None, trust_remote_code: bool = False
) -> tuple[Any, Any]:
    """A target's transformers config and tokenizer, without its weights.

    Args:
        target: folder or Hub id.
        revision: branch, tag or commit of a Hub id; None: its default branch.
        trust_remote_code: run code that comes with the target.

    Raises:
        ValueError: if there is no such model.
    """
    from transformers import AutoConfig, AutoTokenizer

    try:
        return (
            AutoConfig.from_pretrained(target, revision=revision, trust_remote_code=trust_remote_code),
            AutoTokenizer.from_pretrained(target, revision=revision, trust_remote_code=trust_remote_code),
        )
    except (OSError, ValueError) as error:
        raise _not_a_target(target, error) from error


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


def _not_a_target(path: str, error: Exception) -> InputError:
    reason = str(error).partition("\n")[0]
    return InputError("target", f"expected a causal LM's folder or Hub id, got {path}: {reason}")


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
    embedding_RD = stored_rows(target, "embed_tokens.weight", vocab_size, download=True, revision=revision)
    if embedding_RD is None:
        raise InputError("target", f"expected embed_tokens.weight in safetensors files of {target}, found none")
    head_RD = stored_rows(target, "lm_head.weight", vocab_size, revision=revision)
    return target_fingerprint(
        name=_name_of(target),
        architecture=config.architectures[0] if config.architectures else "unknown",
        hidden_size=text_config.hidden_size,
        vocab_size=vocab_size,
        vocabulary=tokenizer.get_vocab(),
        embedding_RD=embedding_RD,
        head_RD=embedding_RD if head_RD is None else head_RD,
    )
