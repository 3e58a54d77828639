"""The tokens that a draft head chooses: `draft_head`, and its parts for a head that lies on several ranks."""

# Shapes: T tokens, V rows of the head, D hidden size, R rows, P parts of a head (tensor-parallel ranks).

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from vllm_mtp.kernels.common.registration import register
from vllm_mtp.kernels.common.tables import TOKEN_BUCKETS
from vllm_mtp.kernels.draft_head import reference
from vllm_mtp.kernels.draft_head.reference import DraftPart, HeadArguments, HeadRows, QuantizedRows, RowsArguments

QUANTIZED = (torch.float8_e4m3fn, torch.int8)
"""What rows of a head can be quantized to."""
_FLOATING = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class DraftHeads:
    """The public functions on an implementation: torch's operators, or plain PyTorch."""

    best_rows: Callable[[HeadArguments], DraftPart]
    quantize_rows: Callable[[RowsArguments], QuantizedRows]

    def draft_head(self, hidden_TD: Tensor, rows: HeadRows, hidden_scale_T: Tensor | None = None) -> Tensor:
        """The token with the largest logit, without the logits: argmax_v of scale_v hidden_scale <h, w_v> + bias_v.

        Of equal ones the lowest row wins, which is the lowest id where d2t ascends in ids; NaN loses against any
        number. A soft cap and a positive factor of the logits would change nothing. Sums are in float32.

        Args:
            hidden_TD: hidden states in the dtype of the rows; beside rows in 8 bits float32, bfloat16 or float16, or
                in 8 bits too, of `quantize_head`.
            rows: of the head, at least one.
            hidden_scale_T: of quantized hidden states, float32.

        Returns:
            Ids, int64 [T].

        Raises:
            ValueError: for shapes or dtypes that do not fit together.
        """
        if not rows.weight_VD.size(0):
            raise ValueError("weight: expected rows of a head, got none")
        return self.draft_head_part(hidden_TD, rows, hidden_scale_T).id_T

    def draft_head_part(self, hidden_TD: Tensor, rows: HeadRows, hidden_scale_T: Tensor | None = None) -> DraftPart:
        """`draft_head` over a rank's rows, which may be none; `combine_draft_parts` finds the best of all ranks."""
        hidden_TD = hidden_TD if hidden_TD.stride(-1) == 1 else hidden_TD.contiguous()
        weight_VD, scale_V, bias_V, d2t_V, first_id = rows
        hidden_scale_T, scale_V, bias_V, d2t_V = (
            x if x is None else x.contiguous() for x in (hidden_scale_T, scale_V, bias_V, d2t_V)
        )
        a = HeadArguments(hidden_TD, hidden_scale_T, weight_VD, scale_V, bias_V, d2t_V, first_id)
        _check(a)
        return self.best_rows(a) if weight_VD.size(0) else reference.part_without_rows(hidden_TD)

    def quantize_head(self, rows_RD: Tensor, dtype: torch.dtype) -> QuantizedRows:
        """Rows of a head, or hidden states, in 8 bits: every row over its own scale, max |x| / largest.

        Args:
            rows_RD: finite rows.
            dtype: torch.float8_e4m3fn or torch.int8.

        Returns:
            Rows in the dtype, and their scales in float32.

        Raises:
            ValueError: for another dtype or shape.
        """
        if dtype not in QUANTIZED:
            raise ValueError(f"dtype: expected one of {', '.join(map(str, QUANTIZED))}, got {dtype}")
        if rows_RD.dim() != 2 or rows_RD.dtype not in _FLOATING:
            raise ValueError(f"rows: expected floating-point rows [R, D], got {rows_RD.dtype} {list(rows_RD.shape)}")
        return self.quantize_rows(RowsArguments(rows_RD if rows_RD.stride(-1) == 1 else rows_RD.contiguous(), dtype))

    def warm_up_draft_head(self, rows: HeadRows, hidden_dtype: torch.dtype) -> None:
        """Runs `draft_head_part` once for every token bucket, so that none is compiled while a CUDA graph is captured.

        Args:
            rows: of the head, as they will be given.
            hidden_dtype: of the hidden states that are to come; that of the rows if they will be quantized.
        """
        is_quantized = hidden_dtype in QUANTIZED
        for num_tokens in TOKEN_BUCKETS:
            for dtype in _FLOATING if is_quantized else (hidden_dtype,):  # activations may be any of these
                hidden_TD, scale_T = rows.weight_VD.new_zeros(num_tokens, rows.weight_VD.size(1), dtype=dtype), None
                if is_quantized:
                    hidden_TD, scale_T = self.quantize_head(hidden_TD, hidden_dtype)
                self.draft_head_part(hidden_TD, rows, scale_T)


def _check(a: HeadArguments) -> None:
    hidden_TD, weight_VD, num_rows = a.hidden_TD, a.weight_VD, a.weight_VD.size(0)
    if hidden_TD.dim() != 2 or weight_VD.dim() != 2 or hidden_TD.size(1) != weight_VD.size(1):
        found = f"{list(hidden_TD.shape)} and {list(weight_VD.shape)}"
        raise ValueError(f"Expected hidden [T, D] and weight [V, D], got {found}")
    if weight_VD.stride(1) != 1:
        raise ValueError("weight: expected rows without gaps between their numbers, got a transposed or strided tensor")
    if weight_VD.dtype not in (*_FLOATING, *QUANTIZED) or hidden_TD.dtype not in (*_FLOATING, weight_VD.dtype):
        dtypes = f"{hidden_TD.dtype} and {weight_VD.dtype}"
        raise ValueError(f"hidden, weight: expected floating-point or quantized rows, got {dtypes}")
    if weight_VD.dtype in _FLOATING and hidden_TD.dtype != weight_VD.dtype:
        raise ValueError(f"hidden: expected the dtype of the weight, {weight_VD.dtype}, got {hidden_TD.dtype}")
    for name, scale, rows in (("scale", a.scale_V, weight_VD), ("hidden_scale", a.hidden_scale_T, hidden_TD)):
        if (rows.dtype in QUANTIZED) != (scale is not None):
            raise ValueError(f"{name}: expected one with quantized rows, and only there; the dtype is {rows.dtype}")
        if scale is not None and (scale.dtype != torch.float32 or scale.shape != rows.shape[:1]):
            raise ValueError(f"{name}: expected float32 [{rows.size(0)}], got {scale.dtype} {list(scale.shape)}")
    if a.bias_V is not None and a.bias_V.shape != weight_VD.shape[:1]:
        raise ValueError(f"bias: expected [{num_rows}], a number for each row, got {list(a.bias_V.shape)}")
    if a.d2t_V is not None and (a.d2t_V.dtype != torch.int64 or a.d2t_V.shape != weight_VD.shape[:1]):
        found = f"{a.d2t_V.dtype} {list(a.d2t_V.shape)}"
        raise ValueError(f"d2t: expected int64 [{num_rows}], an offset for each row, got {found}")


def _fake_best_rows(a: HeadArguments) -> DraftPart:
    num_tokens = a.hidden_TD.size(0)
    return DraftPart(
        a.hidden_TD.new_empty(num_tokens, dtype=torch.int64), a.hidden_TD.new_empty(num_tokens, dtype=torch.float32)
    )


def _fake_quantize_rows(a: RowsArguments) -> QuantizedRows:
    scale_R = a.rows_RD.new_empty(a.rows_RD.size(0), dtype=torch.float32)
    return QuantizedRows(a.rows_RD.new_empty(a.rows_RD.shape, dtype=a.dtype), scale_R)


OPERATORS = DraftHeads(
    register("draft_head", reference.best_rows, triton="draft_head.kernel:best_rows", fake=_fake_best_rows),
    register(
        "quantize_rows", reference.quantize_rows, triton="draft_head.kernel:quantize_rows", fake=_fake_quantize_rows
    ),
)
PLAIN = DraftHeads(reference.best_rows, reference.quantize_rows)
