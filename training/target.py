"""The frozen target: one forward pass gives hidden states, and with its head the teacher's distribution."""

# Shapes: B sequences, T tokens, D hidden size, V vocabulary.

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vllm_mtp.fingerprint import target_fingerprint
from vllm_mtp.shared_head import LogitsTransform, SharedHead

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

    @classmethod
    def load(cls, path: str, *, device: str = "auto", dtype: str = "auto") -> "FrozenTarget":
        """Loads a target and checks that its head is understood.

        Args:
            path: a folder or a Hub id.
            device: "auto", "cpu" or "cuda".
            dtype: "float32", "bfloat16", or "auto": bfloat16 on a GPU, the faster of both on a CPU.

        Raises:
            ValueError: if the target cannot be loaded, or its logits are not its head applied to its last hidden
                states (with soft cap and scale), which is what vLLM gives a drafter.
        """
        from transformers import AutoModelForCausalLM, AutoTokenizer

        if device == "cuda" and not torch.cuda.is_available():
            raise ValueError("--device: expected a CUDA GPU, torch finds none. Leave the flag out, or give cpu.")
        where = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
        try:
            model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32 if where.type == "cpu" else "auto")
            tokenizer = AutoTokenizer.from_pretrained(path)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"--target: expected a causal LM's folder or Hub id, got {path}: {str(error).partition(chr(10))[0]}"
            ) from error
        model = model.to(where).eval().requires_grad_(False)
        model = model.to(_choose_dtype(model, where, dtype))
        output = model.get_output_embeddings()
        if output is None:
            raise ValueError(f"--target: {type(model).__name__} has no LM head that a drafter could share")
        head = SharedHead(
            embedding_VD=model.get_input_embeddings().weight,
            head_VD=output.weight,
            bias_V=getattr(output, "bias", None),
            transform=LogitsTransform.of_target(model.config.get_text_config()),
        )
        name = Path(path).resolve().name if Path(path).exists() else path
        target = cls(name=name, model=model, tokenizer=tokenizer, head=head, device=where, dtype=model.dtype)
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
            embedding_VD=self.head.embedding_VD,
            head_VD=self.head.head_VD,
        )

    @torch.no_grad()
    def _check_head(self) -> None:
        """Refuses a target whose logits are something else than head(last hidden state) with cap and scale."""
        ids_BT = torch.arange(16, device=self.device)[None] % self.vocab_size
        expected_TV = self.model(input_ids=ids_BT, use_cache=False).logits[0].float()
        found_TV = self.head.logits(self.hidden_states(ids_BT)[0])
        difference = (expected_TV - found_TV).abs().max() / expected_TV.abs().max().clamp(min=1e-6)
        if not difference < _MAX_LOGIT_DIFFERENCE:
            raise ValueError(
                f"--target: the logits of {type(self.model).__name__} are not its LM head applied to its last hidden "
                f"states (relative difference {difference:.2g}): vllm-mtp does not know this architecture's head."
            )


def _choose_dtype(model: Any, device: torch.device, dtype: str) -> torch.dtype:
    if dtype != "auto":
        return torch.float32 if dtype == "float32" else torch.bfloat16
    if device.type != "cpu":
        return torch.bfloat16
    return faster_cpu_dtype(model)


@torch.no_grad()
def faster_cpu_dtype(model: Any, num_tokens: int = 256) -> torch.dtype:
    """float32, unless this processor multiplies faster in bfloat16; timed on the target itself.

    Processors without bf16 instructions are up to 30 times slower in it, those with them twice as fast.
    """
    ids_BT = torch.zeros(1, num_tokens, dtype=torch.int64)
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        context = torch.autocast("cpu", dtype) if dtype is torch.bfloat16 else contextlib.nullcontext()
        with context:
            model(input_ids=ids_BT[:, :16], use_cache=False)
            start = time.perf_counter()
            model(input_ids=ids_BT, use_cache=False)
            seconds[dtype] = time.perf_counter() - start
    return min(seconds, key=lambda dtype: seconds[dtype])
