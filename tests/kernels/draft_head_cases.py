"""What `draft_head` must do, whichever implementation runs: the same checks for the plain twin and the kernels.

Logits of the expectation are computed in float64 from the very numbers that the operator is given, quantized ones
included; a token whose two largest logits are closer than rounding can tell apart may get either.
"""

# Shapes: T tokens, V rows of the head, D hidden size.

from dataclasses import dataclass

import torch
from torch import Tensor

from tests.kernels.compare import random
from vllm_mtp.kernels.ops import HeadRows, draft_head, draft_head_part, quantize_head

INT8, FP8, BF16, FP16, FP32 = torch.int8, torch.float8_e4m3fn, torch.bfloat16, torch.float16, torch.float32
DTYPES = [(FP32, FP32), (BF16, BF16), (FP16, FP16), (BF16, FP8), (BF16, INT8), (FP32, INT8), (FP8, FP8), (INT8, INT8)]
"""Of hidden states and head."""
SIZES = [(1, 72, 201), (17, 72, 201), (5, 128, 128), (33, 16, 130)]
"""Tokens, hidden size, rows: one token, more than a block of them, blocks that are full, a tile with two rows."""
# Sums of float32 over D <= 128 in another order; products of 16-bit and 8-bit factors are exact in float32.
RELATIVE_ERROR = 2e-6


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """Arguments of `draft_head`, and the logits that they stand for, in float64."""

    hidden_TD: Tensor
    rows: HeadRows
    hidden_scale_T: Tensor | None = None
    logits_TV: Tensor

    def close_TV(self) -> Tensor:
        """Which rows may be taken for the best, as far as rounding can tell."""
        largest_T1 = self.logits_TV.amax(-1, keepdim=True)
        return self.logits_TV >= largest_T1 - RELATIVE_ERROR * self.logits_TV.abs().amax(-1, keepdim=True)


def head(
    sizes: tuple[int, int, int],
    hidden_dtype: torch.dtype = FP32,
    weight_dtype: torch.dtype = FP32,
    *,
    bias: bool = False,
    d2t: bool = False,
) -> Case:
    """Random hidden states and rows, of very different lengths; memory around both is NaN, or the largest number."""
    num_tokens, size, num_rows = sizes
    scale_V = hidden_scale_T = None
    hidden_TD = random(num_tokens, size) * random(num_tokens, 1, seed=1).exp()
    weight_VD = random(num_rows, size, seed=2) * random(num_rows, 1, seed=3).mul(0.3).exp()
    if weight_dtype in (INT8, FP8):
        weight_VD, scale_V = quantize_head(weight_VD, weight_dtype)
        scale_V = poisoned(scale_V[:, None])[:, 0].contiguous()
    if hidden_dtype in (INT8, FP8):
        hidden_TD, hidden_scale_T = quantize_head(hidden_TD, hidden_dtype)
        hidden_scale_T = poisoned(hidden_scale_T[:, None])[:, 0].contiguous()
    hidden_TD, weight_VD = poisoned(hidden_TD.to(hidden_dtype)), poisoned(weight_VD.to(weight_dtype))
    bias_V = random(num_rows, seed=4) if bias else None
    d2t_V = torch.arange(num_rows) * 2 + 1 if d2t else None
    return made(hidden_TD, HeadRows(weight_VD, scale_V, bias_V, d2t_V), hidden_scale_T)


def made(hidden_TD: Tensor, rows: HeadRows, hidden_scale_T: Tensor | None = None) -> Case:
    """The case of these arguments."""
    logits_TV = hidden_TD.double() @ rows.weight_VD.double().T
    if rows.scale_V is not None:
        logits_TV = logits_TV * rows.scale_V.double()
    if hidden_scale_T is not None:
        logits_TV = logits_TV * hidden_scale_T.double()[:, None]
    if rows.bias_V is not None:
        logits_TV = logits_TV + rows.bias_V.double()
    return Case(hidden_TD=hidden_TD, rows=rows, hidden_scale_T=hidden_scale_T, logits_TV=logits_TV)


def poisoned(rows: Tensor) -> Tensor:
    """The rows within a larger tensor whose other numbers must not be read, or at least never count."""
    poison = 127 if rows.dtype == INT8 else float("nan")
    around = torch.full((len(rows) + 2, rows.size(1) + 24), poison, dtype=torch.float32).to(rows.dtype)
    around[1:-1, 8 : 8 + rows.size(1)] = rows
    return around[1:-1, 8 : 8 + rows.size(1)]


def check_best(case: Case) -> None:
    """Ids of the largest logits, and those logits."""
    ids_T, logit_T = draft_head_part(case.hidden_TD, case.rows, case.hidden_scale_T)
    d2t_V = case.rows.d2t_V
    rows_T = ids_T if d2t_V is None else (ids_T - 1) // 3
    assert ids_T.dtype == torch.int64
    assert case.close_TV().gather(1, rows_T[:, None]).all()
    if d2t_V is not None:
        assert torch.equal(ids_T, rows_T + d2t_V[rows_T])
    size = float(case.logits_TV.abs().max())
    torch.testing.assert_close(logit_T.double(), case.logits_TV.amax(-1), rtol=0, atol=4 * RELATIVE_ERROR * size)
    assert torch.equal(draft_head(case.hidden_TD, case.rows, case.hidden_scale_T), ids_T)
