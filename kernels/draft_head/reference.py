"""The draft head in plain PyTorch: what runs where there is no GPU, and the oracle of the kernels in kernel.py."""

# Shapes: T tokens, V rows of the head, D hidden size, R rows, P parts of a head (tensor-parallel ranks).

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

_NUM_ROWS_AT_ONCE = 16_384
_32_BITS = 0xFFFFFFFF
_NO_ID = 2**31 - 1  # of a part without rows: loses against every id


class DraftPart(NamedTuple):
    """What a part of a head says of every token; fields [T], or [P, T] of several parts."""

    id_T: Tensor
    """The id of its best row, int64."""
    key_T: Tensor
    """What parts are compared by: that row's logit before cap and scale, or its logit with noise. float32."""
    logit_T: Tensor
    """The row's logit; empty without confidence."""
    lse_T: Tensor
    """log sum exp of the part's logits; empty without confidence."""


def draft_head(
    h: Tensor,
    w: Tensor,
    *,
    scale: Tensor | None = None,
    hidden_scale: Tensor | None = None,
    bias: Tensor | None = None,
    d2t: Tensor | None = None,
    logit_scale: float = 1.0,
    soft_cap: float | None = None,
    return_confidence: bool = False,
    gumbel_seed: int | Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """`ops.draft_head`."""
    part = draft_head_part(
        h,
        w,
        scale=scale,
        hidden_scale=hidden_scale,
        bias=bias,
        d2t=d2t,
        logit_scale=logit_scale,
        soft_cap=soft_cap,
        confidence=return_confidence,
        gumbel_seed=gumbel_seed,
    )
    ids = part.id_T if out is None else out.copy_(part.id_T)
    return (ids, torch.exp(part.logit_T - part.lse_T)) if return_confidence else ids


def draft_head_part(
    h: Tensor,
    w: Tensor,
    *,
    scale: Tensor | None = None,
    hidden_scale: Tensor | None = None,
    bias: Tensor | None = None,
    d2t: Tensor | None = None,
    first_id: int = 0,
    logit_scale: float = 1.0,
    soft_cap: float | None = None,
    confidence: bool = False,
    gumbel_seed: int | Tensor | None = None,
) -> DraftPart:
    """`ops.draft_head_part`."""
    if not len(w):
        return part_without_rows(h, confidence)
    if isinstance(gumbel_seed, int):
        gumbel_seed = torch.full((1,), gumbel_seed, dtype=torch.int64, device=h.device)
    return DraftPart(
        *best_rows(h, w, scale, hidden_scale, bias, d2t, gumbel_seed, first_id, logit_scale, soft_cap, confidence)
    )


def part_without_rows(h: Tensor, confidence: bool) -> DraftPart:
    """What a rank says that has no rows of the head: it loses against every other."""
    key_T = torch.full((h.size(0),), float("-inf"), device=h.device)
    last = key_T if confidence else key_T[:0]
    return DraftPart(torch.full_like(key_T, _NO_ID, dtype=torch.int64), key_T, last, last)


def combine_draft_parts(parts_PT: DraftPart) -> DraftPart:
    """The best of several parts of a head for every token, of equal ones the lowest id.

    Args:
        parts_PT: fields of all parts, stacked.
    """
    id_PT, key_PT, logit_PT, lse_PT = parts_PT
    key_T = key_PT.amax(0)
    id_T, part_T = torch.where(key_PT == key_T, id_PT, _NO_ID).min(0)
    if not logit_PT.numel():
        return DraftPart(id_T, key_T, logit_PT.new_empty(0), lse_PT.new_empty(0))
    return DraftPart(id_T, key_T, logit_PT.gather(0, part_T[None])[0], lse_PT.logsumexp(0))


def warm_up_draft_head(w: Tensor, hidden_dtype: torch.dtype, **options: Tensor | float | None) -> None:
    """`ops.warm_up_draft_head`: nothing, for nothing is compiled here."""


def best_rows(
    hidden_TD: Tensor,
    weight_VD: Tensor,
    scale_V: Tensor | None,
    hidden_scale_T: Tensor | None,
    bias_V: Tensor | None,
    d2t_V: Tensor | None,
    seed: Tensor | None,
    first_id: int,
    logit_scale: float,
    soft_cap: float | None,
    confidence: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Each token's best row of (a part of) a head; logits of some thousand rows exist at a time.

    Args:
        hidden_TD: hidden states; float, or quantised rows.
        weight_VD: rows of the head, at least one; float, or quantised.
        scale_V: factors of quantised rows.
        hidden_scale_T: factors of quantised hidden states.
        bias_V: added to the logits.
        d2t_V: offsets from a row's number to its id.
        seed: int64 [1]: sample with it; None: the best.
        first_id: the first row's id, where there is no `d2t_V`.
        logit_scale: factor of the logits, positive.
        soft_cap: bound of the logits before that.
        confidence: whether the last two results are wanted.

    Returns:
        Ids [T] int64; what was compared, [T]; the chosen rows' logits and log sum exp of all rows' logits, [T] each, or
        empty.
    """
    num_tokens, num_rows = len(hidden_TD), len(weight_VD)
    hidden_TD = hidden_TD.float()
    place_T = torch.zeros(num_tokens, dtype=torch.int64, device=hidden_TD.device)
    key_T = hidden_TD.new_full((num_tokens,), float("-inf"))
    logit_T, lse_T = key_T.clone(), key_T.clone()
    for start in range(0, num_rows, _NUM_ROWS_AT_ONCE):
        part = slice(start, min(start + _NUM_ROWS_AT_ONCE, num_rows))
        z_TV = F.linear(hidden_TD, weight_VD[part].float())
        if scale_V is not None:
            z_TV *= scale_V[part]
        if hidden_scale_T is not None:
            z_TV *= hidden_scale_T[:, None]
        if bias_V is not None:
            z_TV += bias_V[part]
        z_TV.masked_fill_(z_TV.isnan(), float("-inf"))
        logits_TV = z_TV
        if seed is not None or confidence:
            if soft_cap is not None:
                logits_TV = torch.where(z_TV.isneginf(), z_TV, soft_cap * torch.tanh(z_TV / soft_cap))
            logits_TV = logit_scale * logits_TV
        if seed is None:
            compared_TV = z_TV
        else:
            row_V = torch.arange(part.start, part.stop, device=hidden_TD.device)
            compared_TV = logits_TV + _gumbel_noise(
                seed, row_V + (first_id if d2t_V is None else d2t_V[part]), num_tokens
            )
        best_T, at_T = compared_TV.max(-1)  # of equals the first
        better_T = best_T > key_T
        key_T = torch.where(better_T, best_T, key_T)
        place_T = torch.where(better_T, at_T + start, place_T)
        if confidence:
            chosen_T = logits_TV.gather(1, at_T[:, None])[:, 0]
            logit_T = torch.where(better_T, chosen_T, logit_T)
            lse_T = torch.logaddexp(lse_T, logits_TV.logsumexp(-1))
    id_T = place_T + (first_id if d2t_V is None else d2t_V[place_T])
    if not confidence:
        logit_T, lse_T = key_T.new_empty(0), key_T.new_empty(0)
    return id_T, key_T, logit_T, lse_T


def quantize_head(w: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """w ~ q s: every row over its own scale, max |x| over the largest number of the dtype, rounded to the nearest.

    Args:
        w: rows of a head, or hidden states, [R, D].
        dtype: torch.float8_e4m3fn or torch.int8.

    Returns:
        q [R, D] in the dtype, s [R] float32.
    """
    largest = 127.0 if dtype == torch.int8 else torch.finfo(dtype).max
    quantised_RD = torch.empty(w.shape, dtype=dtype, device=w.device)
    scale_R = torch.empty(len(w), dtype=torch.float32, device=w.device)
    for start in range(0, len(w), _NUM_ROWS_AT_ONCE):
        part = slice(start, start + _NUM_ROWS_AT_ONCE)
        wide_RD = w[part].float()
        scale_R[part] = wide_RD.abs().amax(-1).clamp(min=1e-12) / largest
        wide_RD = (wide_RD / scale_R[part, None]).clamp(-largest, largest)
        quantised_RD[part] = (wide_RD.round() if dtype == torch.int8 else wide_RD).to(dtype)
    return quantised_RD, scale_R


def _gumbel_noise(seed: Tensor, id_V: Tensor, num_tokens: int) -> Tensor:
    """-log(-log u), [T, V]: the u of the kernel, bit for bit, from Philox 4x32 in ten rounds (Salmon et al., 2011)."""
    zeros_TV = torch.zeros(num_tokens, len(id_V), dtype=torch.int64, device=id_V.device)
    token_T = torch.arange(num_tokens, device=id_V.device)
    c0, c1, c2, c3 = zeros_TV + id_V, zeros_TV + token_T[:, None], zeros_TV, zeros_TV
    key0, key1 = seed & _32_BITS, (seed >> 32) & _32_BITS
    for _ in range(10):
        # The product of two 32-bit numbers wraps around in int64; its upper half, masked, is right nevertheless.
        product0, product2 = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c2 = ((product2 >> 32) & _32_BITS) ^ c1 ^ key0, ((product0 >> 32) & _32_BITS) ^ c3 ^ key1
        c1, c3 = product2 & _32_BITS, product0 & _32_BITS
        key0, key1 = (key0 + 0x9E3779B9) & _32_BITS, (key1 + 0xBB67AE85) & _32_BITS
    u_TV = ((c0 >> 9).float() + 0.5) * 2.0**-23
    return -torch.log(-torch.log(u_TV))
