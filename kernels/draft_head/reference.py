"""The draft head in plain PyTorch: what runs where there is no GPU, and the oracle of the kernels in kernel.py."""

# Shapes: T tokens, V rows of the head, D hidden size, R rows, P parts of a head (tensor-parallel ranks).

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

_NUM_ROWS_AT_ONCE = 16_384
_NO_ID = 2**31 - 1  # of a part without rows: loses against every id


class HeadRows(NamedTuple):
    """Rows of a head, all of them or a tensor-parallel rank's part."""

    weight_VD: Tensor
    """float32, bfloat16 or float16; or float8_e4m3fn or int8 of `quantize_head`. No rows: such a part never wins."""
    scale_V: Tensor | None = None
    """The scale of each quantized row, float32."""
    bias_V: Tensor | None = None
    d2t_V: Tensor | None = None
    """int64, offsets of a draft vocabulary: the id of row i is i + d2t[i]; None: first_id + i."""
    first_id: int = 0
    """The first row's id, where there is no d2t."""


class DraftPart(NamedTuple):
    """What a part of a head says of every token; fields [T], or [P, T] of several parts."""

    id_T: Tensor
    """The id of its best row, int64."""
    logit_T: Tensor
    """That row's logit before cap and scale, which parts are compared by, float32."""


class HeadArguments(NamedTuple):
    """Arguments of the operator: hidden states, their scales where they are quantized, and the fields of HeadRows."""

    hidden_TD: Tensor
    hidden_scale_T: Tensor | None
    weight_VD: Tensor
    scale_V: Tensor | None
    bias_V: Tensor | None
    d2t_V: Tensor | None
    first_id: int


class RowsArguments(NamedTuple):
    """Arguments of the operator that quantizes."""

    rows_RD: Tensor
    dtype: torch.dtype


class QuantizedRows(NamedTuple):
    """Rows in 8 bits: rows ~ quantized * scale."""

    quantized_RD: Tensor
    scale_R: Tensor


def best_rows(a: HeadArguments) -> DraftPart:
    """Each token's best row of (a part of) a head; logits of some thousand rows exist at a time."""
    hidden_TD = a.hidden_TD.float()
    place_T = torch.zeros(len(hidden_TD), dtype=torch.int64, device=hidden_TD.device)
    logit_T = hidden_TD.new_full((len(hidden_TD),), float("-inf"))
    for start in range(0, len(a.weight_VD), _NUM_ROWS_AT_ONCE):
        part = slice(start, start + _NUM_ROWS_AT_ONCE)
        logits_TV = F.linear(hidden_TD, a.weight_VD[part].float())
        if a.scale_V is not None:
            logits_TV *= a.scale_V[part]
        if a.hidden_scale_T is not None:
            logits_TV *= a.hidden_scale_T[:, None]
        if a.bias_V is not None:
            logits_TV += a.bias_V[part]
        logits_TV.masked_fill_(logits_TV.isnan(), float("-inf"))
        best_T, at_T = logits_TV.max(-1)  # of equals the first
        better_T = best_T > logit_T
        logit_T = torch.where(better_T, best_T, logit_T)
        place_T = torch.where(better_T, at_T + start, place_T)
    return DraftPart(place_T + (a.first_id if a.d2t_V is None else a.d2t_V[place_T]), logit_T)


def part_without_rows(hidden_TD: Tensor) -> DraftPart:
    """What a rank says that has no rows of the head: it loses against every other."""
    logit_T = torch.full((hidden_TD.size(0),), float("-inf"), device=hidden_TD.device)
    return DraftPart(torch.full_like(logit_T, _NO_ID, dtype=torch.int64), logit_T)


def combine_draft_parts(parts_PT: DraftPart) -> DraftPart:
    """The best of several parts of a head for every token, of equal ones the lowest id.

    Args:
        parts_PT: fields of all parts, stacked.
    """
    logit_T = parts_PT.logit_T.amax(0)
    return DraftPart(torch.where(parts_PT.logit_T == logit_T, parts_PT.id_T, _NO_ID).amin(0), logit_T)


def quantize_rows(a: RowsArguments) -> QuantizedRows:
    """Every row over its own scale, max |x| over the largest number of the dtype, rounded to the nearest."""
    largest = 127.0 if a.dtype == torch.int8 else torch.finfo(a.dtype).max
    quantized_RD = torch.empty(a.rows_RD.shape, dtype=a.dtype, device=a.rows_RD.device)
    scale_R = torch.empty(len(a.rows_RD), dtype=torch.float32, device=a.rows_RD.device)
    for start in range(0, len(a.rows_RD), _NUM_ROWS_AT_ONCE):
        part = slice(start, start + _NUM_ROWS_AT_ONCE)
        wide_RD = a.rows_RD[part].float()
        scale_R[part] = wide_RD.abs().amax(-1).clamp(min=1e-12) / largest
        wide_RD = (wide_RD / scale_R[part, None]).clamp(-largest, largest)
        quantized_RD[part] = (wide_RD.round() if a.dtype == torch.int8 else wide_RD).to(a.dtype)
    return QuantizedRows(quantized_RD, scale_R)
