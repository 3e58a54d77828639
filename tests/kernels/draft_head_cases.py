"""What `draft_head` must do, whichever implementation runs: the same checks for the plain twin and the kernels.

Logits of the expectation are computed in float64 from the very numbers that the operator is given, quantised ones
included; a token whose two largest logits are closer than rounding can tell apart may get either.
"""

# Shapes: T tokens, V rows of the head, D hidden size.

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tests.kernels.compare import random
from vllm_mtp.kernels.ops import draft_head, quantize_head

INT8, FP8, BF16, FP16, FP32 = torch.int8, torch.float8_e4m3fn, torch.bfloat16, torch.float16, torch.float32
DTYPES = [(FP32, FP32), (BF16, BF16), (FP16, FP16), (BF16, FP8), (BF16, INT8), (FP32, INT8), (FP8, FP8), (INT8, INT8)]
"""Of hidden states and head."""
SIZES = [(1, 72, 201), (17, 72, 201), (5, 128, 128), (33, 16, 130)]
"""Tokens, hidden size, rows: one token, more than a block of them, blocks that are full, a tile with two rows."""
# Sums of float32 over D <= 128 in another order; products of 16-bit and 8-bit factors are exact in float32.
RELATIVE_ERROR = 2e-6


@dataclass(frozen=True, kw_only=True, slots=True)
class Head:
    """Arguments of `draft_head`, and the logits that they stand for."""

    h: Tensor
    w: Tensor
    options: dict[str, Any]
    z_TV: Tensor
    """Before cap and scale, float64."""
    logits_TV: Tensor

    def close_TV(self) -> Tensor:
        """Which rows may be taken for the best, as far as rounding can tell."""
        largest_T1 = self.z_TV.amax(-1, keepdim=True)
        return self.z_TV >= largest_T1 - RELATIVE_ERROR * self.z_TV.abs().amax(-1, keepdim=True)


def head(
    sizes: tuple[int, int, int],
    hidden_dtype: torch.dtype = FP32,
    weight_dtype: torch.dtype = FP32,
    *,
    bias: bool = False,
    d2t: bool = False,
    logit_scale: float = 1.0,
    soft_cap: float | None = None,
) -> Head:
    """Random hidden states and rows, of very different lengths; memory around both is NaN, or the largest number."""
    num_tokens, size, num_rows = sizes
    options: dict[str, Any] = {"logit_scale": logit_scale, "soft_cap": soft_cap}
    h = random(num_tokens, size) * random(num_tokens, 1, seed=1).exp()
    w = random(num_rows, size, seed=2) * random(num_rows, 1, seed=3).mul(0.3).exp()
    if weight_dtype in (INT8, FP8):
        w, options["scale"] = quantize_head(w, weight_dtype)
    if hidden_dtype in (INT8, FP8):
        h, options["hidden_scale"] = quantize_head(h, hidden_dtype)
    h, w = poisoned(h.to(hidden_dtype)), poisoned(w.to(weight_dtype))
    z_TV = h.double() @ w.double().T
    for name, dim in (("scale", 0), ("hidden_scale", 1)):
        if name in options:
            options[name] = poisoned(options[name][:, None])[:, 0].contiguous()
            z_TV = z_TV * options[name].double().unsqueeze(dim)
    if bias:
        options["bias"] = random(num_rows, seed=4)
        z_TV = z_TV + options["bias"].double()
    if d2t:
        options["d2t"] = torch.arange(num_rows) * 2 + 1
    logits_TV = logit_scale * (z_TV if soft_cap is None else soft_cap * torch.tanh(z_TV / soft_cap))
    return Head(h=h, w=w, options=options, z_TV=z_TV, logits_TV=logits_TV)


def poisoned(rows: Tensor) -> Tensor:
    """The rows within a larger tensor whose other numbers must not be read, or at least never count."""
    poison = 127 if rows.dtype == INT8 else float("nan")
    around = torch.full((len(rows) + 2, rows.size(1) + 24), poison, dtype=torch.float32).to(rows.dtype)
    around[1:-1, 8 : 8 + rows.size(1)] = rows
    return around[1:-1, 8 : 8 + rows.size(1)]


def check_best(case: Head) -> None:
    """Ids and probabilities of the largest logits."""
    ids_T, confidence_T = draft_head(case.h, case.w, return_confidence=True, **case.options)
    rows_T = ids_T if "d2t" not in case.options else (ids_T - 1) // 3
    assert ids_T.dtype == torch.int64
    assert case.close_TV().gather(1, rows_T[:, None]).all()
    if "d2t" in case.options:
        assert torch.equal(ids_T, rows_T + case.options["d2t"][rows_T])
    expected_T = case.logits_TV.softmax(-1).gather(1, rows_T[:, None])[:, 0]
    size = float(case.logits_TV.abs().max())
    torch.testing.assert_close(confidence_T.double(), expected_T, rtol=4 * RELATIVE_ERROR * size, atol=1e-12)
    assert torch.equal(draft_head(case.h, case.w, **case.options), ids_T), "the same without a probability"
