"""The target's embedding and LM head, which the drafter shares: rows in, logits out."""

# Shapes: T tokens, D hidden size, V vocabulary, J draft vocabulary.

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class LogitsTransform:
    """What a target does to its logits after the head: logits -> scale * cap * tanh(logits / cap)."""

    scale: float = 1.0
    """Multiplies the logits, after the cap."""
    soft_cap: float | None = None
    """Bounds the logits' magnitude; None where the target has no cap."""

    @classmethod
    def from_target(cls, config: Any) -> "LogitsTransform":
        """Reads the transform from a target's config: Gemma 2's cap, Granite's divisor, Cohere's factor."""
        scale = getattr(config, "logit_scale", None) or 1.0
        divisor = getattr(config, "logits_scaling", None) or 1.0
        return cls(scale=scale / divisor, soft_cap=getattr(config, "final_logit_softcapping", None) or None)

    def __call__(self, logits: Tensor) -> Tensor:
        if self.soft_cap is not None:
            logits = torch.tanh(logits / self.soft_cap) * self.soft_cap
        return logits if self.scale == 1.0 else logits * self.scale


@dataclass(frozen=True, kw_only=True, slots=True)
class SharedHead:
    """Frozen tensors of the target, by reference."""

    embedding_VD: Tensor
    """The raw embedding table: a scale that the target applies to it (Gemma's sqrt(D)) falls to the module's norm."""
    head_VD: Tensor
    """The LM head; the same tensor as the embedding where the target ties them."""
    bias_V: Tensor | None = None
    """Bias of the LM head, where there is one."""
    transform: LogitsTransform = LogitsTransform()

    def embed(self, ids_T: Tensor) -> Tensor:
        """Embedding rows, [T, D]."""
        return F.embedding(ids_T, self.embedding_VD)

    def logits(self, hidden_TD: Tensor) -> Tensor:
        """Logits over the whole vocabulary, [T, V], in float32; [T, J] from a head that was cut."""
        return self.transform(F.linear(hidden_TD, self.head_VD, self.bias_V).float())

    def cut(self, ids_J: Tensor | None) -> "SharedHead":
        """The head of a draft vocabulary: its rows (and bias) for the target ids ids_J, as a contiguous copy.

        Returns:
            A head with `logits` over J; the embedding is the same tensor. This head itself if ids_J is None.
        """
        if ids_J is None:
            return self
        ids_J = ids_J.to(self.head_VD.device)
        return replace(self, head_VD=self.head_VD[ids_J], bias_V=None if self.bias_V is None else self.bias_V[ids_J])
