"""The token that a draft head chooses, without its logits: a matrix product that ends in an argmax.

    z_tv = s_v r_t <w_v, h_t> + b_v                         s, r: scales of quantised rows, where there are any
    l_tv = logit_scale * soft_cap * tanh(z_tv / soft_cap)
    i_t  = argmax_v z_tv                                    the same as argmax_v l_tv: l rises with z
    i_t  = argmax_v (l_tv - log(-log u_tv))                 with a seed: a sample of softmax_v l_tv (Gumbel's trick)
    id_t = i_t + d2t[i_t]        p_t = exp(l_t,i - log sum_v exp l_tv)

A draft step is bound by the bytes of its head: one program multiplies a tile of rows w with all h of a block of tokens
and leaves one candidate for each token, eight bytes; a second launch takes the best of a token's candidates. The logits
[T, V] are never written, and of d2t one entry is read for each token. The noise u is Philox of (seed; id, t): it
depends on the token's id, not on the tile or the rank that holds its row, so that a head split over ranks samples what
the whole one samples.

Rows of the head are the left factor: T is 1 to a few dozen, V is long, and a matrix instruction wants 64 rows there.
Rows in 8 bits: against hidden states in 8 bits they go into the matrix instruction as they are; against wider hidden
states they are widened in registers.

NaN among the logits of a token counts as -inf, which the cap leaves alone. Of equal candidates the lowest row wins.

Source: the Gumbel-argmax epilogue is FlashSampling's (arXiv 2603.15854); quantised rows, d2t, the probability from the
same tiles, and noise that does not depend on the sharding are new here.
"""

# Shapes: T tokens, V rows of the head, D hidden size, N tiles of rows, R rows to quantise; of a block in a kernel, of
# the whole outside and behind pointers.

import torch
import triton
import triton.language as tl
from torch import Tensor

from vllm_mtp.kernels.common.tables import TOKEN_BUCKETS, Launch, Table, launch, shared_bytes
from vllm_mtp.kernels.common.triton_common import INTERPRETED, dot, or_zero, tanh


def _launches(rows: int, few: int, many: int, num_stages: int, num_warps: int = 4) -> dict[int, Launch]:
    """By token bucket: `rows` of the head at once, `few` columns of them with up to 32 tokens, `many` with more."""
    return {
        bucket: Launch(
            {"BLOCK_V": rows, "BLOCK_T": min(bucket, 64), "BLOCK_D": few if bucket <= 32 else many},
            num_warps=num_warps if bucket <= 32 else 8,
            num_stages=num_stages,
        )
        for bucket in TOKEN_BUCKETS
    }


# Tiles of 32 KiB of the head, two or three of them on their way, and room for two programs on a multiprocessor; half
# the shared memory where it is small or unknown. Chosen by what compiles without spills: not yet measured on a GPU.
_LARGE = ("sm_80", "sm_90", "sm_100")
TABLES: dict[str, Table] = {
    "16 bits": {
        **dict.fromkeys(_LARGE, _launches(128, 128, 64, num_stages=3)),
        "default": _launches(128, 128, 64, num_stages=2),
    },
    "8 bits": {
        **dict.fromkeys(_LARGE, _launches(128, 256, 128, num_stages=3)),
        "default": _launches(128, 256, 128, num_stages=2),
    },
    "8 bits, hidden states wider": {
        **dict.fromkeys(_LARGE, _launches(128, 128, 64, num_stages=3, num_warps=8)),
        # With asynchronous copies, rows that are widened in registers would come in pieces of 8 bytes.
        "sm_90": _launches(128, 128, 64, num_stages=1, num_warps=8),
        "default": _launches(128, 128, 64, num_stages=2, num_warps=8),
    },
    "32 bits": {
        **dict.fromkeys(_LARGE, _launches(64, 64, 64, num_stages=3, num_warps=8)),
        "default": _launches(64, 64, 64, num_stages=2),
    },
}
"""Launches of `candidates_kernel`, by the bits of the head's rows and of the hidden states."""
_NUMBER_BYTES = {"16 bits": (2, 2), "8 bits": (1, 1), "8 bits, hidden states wider": (1, 2), "32 bits": (4, 4)}
_TO_TRY = {
    "16 bits": (
        (64, 128, 4, 3), (64, 128, 4, 4), (64, 256, 4, 3), (128, 64, 4, 4), (128, 64, 8, 3), (128, 64, 8, 4),
        (128, 128, 4, 3), (128, 128, 4, 4), (128, 128, 8, 3), (256, 64, 8, 3),
    ),
    "8 bits": (
        (64, 256, 4, 3), (64, 256, 4, 4), (128, 128, 4, 3), (128, 128, 4, 4), (128, 128, 8, 3), (128, 256, 4, 3),
        (128, 256, 8, 3), (256, 128, 8, 3),
    ),
    "8 bits, hidden states wider": (
        (64, 128, 4, 3), (64, 128, 8, 1), (128, 64, 8, 3), (128, 128, 4, 1), (128, 128, 8, 1), (128, 128, 8, 2),
        (128, 128, 8, 3),
    ),
    "32 bits": ((32, 64, 4, 3), (64, 32, 4, 3), (64, 64, 4, 2), (64, 64, 8, 3)),
}  # fmt: skip
"""What `bench kernels --tune` measures beside a table's entry: BLOCK_V, BLOCK_D, warps, stages."""
_BEST = Launch({"BLOCK_N": 1024}, num_warps=4)
"""Of `best_kernel`: a head of 131,072 rows has its 1,024 tiles of 128 in one block."""


def table_for(hidden_dtype: torch.dtype, weight_dtype: torch.dtype) -> Table:
    """The table for a pair of dtypes."""
    if hidden_dtype == torch.float32:
        return TABLES["32 bits"]
    if weight_dtype.itemsize > 1:
        return TABLES["16 bits"]
    return TABLES["8 bits" if hidden_dtype.itemsize == 1 else "8 bits, hidden states wider"]


def launches_to_try(name: str, bucket: int, architecture: str) -> list[Launch]:
    """Launches of a table's kernel that are worth measuring, of those that can run."""
    found = [
        Launch({"BLOCK_V": rows, "BLOCK_T": min(bucket, 64), "BLOCK_D": columns}, num_warps, num_stages)
        for rows, columns, num_warps, num_stages in _TO_TRY[name]
    ]
    return [chosen for chosen in found if can_run(name, chosen, architecture)]


def can_run(name: str, chosen: Launch, architecture: str) -> bool:
    """Whether the tiles that are on their way fit into shared memory, and the sums into half the registers."""
    weight_bytes, hidden_bytes = _NUMBER_BYTES[name]
    rows, tokens, columns = (chosen.tiles[block] for block in ("BLOCK_V", "BLOCK_T", "BLOCK_D"))
    on_their_way = max(chosen.num_stages - 1, 1) * columns * (rows * weight_bytes + tokens * hidden_bytes)
    return on_their_way <= shared_bytes(architecture) and rows * tokens <= 128 * 32 * chosen.num_warps


def draft_head_part(
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
    """Launches both kernels; arguments and results are those of the plain `best_rows`."""
    num_tokens, hidden_size = hidden_TD.shape
    num_rows = len(weight_VD)
    id_T = torch.empty(num_tokens, dtype=torch.int64, device=hidden_TD.device)
    key_T = torch.empty(num_tokens, dtype=torch.float32, device=hidden_TD.device)
    logit_T, lse_T = (torch.empty_like(key_T) if confidence else key_T.new_empty(0) for _ in range(2))
    if not num_tokens:
        return id_T, key_T, logit_T, lse_T
    chosen = launch(table_for(hidden_TD.dtype, weight_VD.dtype), num_tokens, hidden_TD.device)
    num_tiles = triton.cdiv(num_rows, chosen.tiles["BLOCK_V"])
    tile_key_NT = key_T.new_empty(num_tiles, num_tokens)
    tile_row_NT = tile_key_NT.new_empty(num_tiles, num_tokens, dtype=torch.int32)
    tile_logit_NT = torch.empty_like(tile_key_NT) if confidence and seed is not None else None
    tile_lse_NT = torch.empty_like(tile_key_NT) if confidence else None
    candidates_kernel[triton.cdiv(num_tokens, chosen.tiles["BLOCK_T"]), num_tiles](
        hidden_TD,
        weight_VD,
        scale_V,
        hidden_scale_T,
        bias_V,
        None if seed is None else d2t_V,
        seed,
        tile_key_NT,
        tile_row_NT,
        tile_logit_NT,
        tile_lse_NT,
        num_tokens,
        num_rows,
        hidden_size,
        hidden_TD.stride(0),
        weight_VD.stride(0),
        first_id,
        logit_scale,
        soft_cap,
        EVEN=hidden_size % chosen.tiles["BLOCK_D"] == 0,
        **chosen.arguments(),
    )
    best_kernel[(num_tokens,)](
        tile_key_NT,
        tile_row_NT,
        tile_logit_NT,
        tile_lse_NT,
        d2t_V,
        id_T,
        key_T,
        logit_T if confidence else None,
        lse_T if confidence else None,
        num_tokens,
        num_tiles,
        first_id,
        logit_scale,
        soft_cap,
        **_BEST.arguments(),
    )
    return id_T, key_T, logit_T, lse_T


def quantize_rows(x_RD: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Launches the kernel, one program for each row; the plain `quantize_head` says what comes out."""
    num_rows, size = x_RD.shape
    quantised_RD = torch.empty(num_rows, size, dtype=dtype, device=x_RD.device)
    scale_R = torch.empty(num_rows, dtype=torch.float32, device=x_RD.device)
    if num_rows:
        quantize_rows_kernel[(num_rows,)](
            x_RD,
            quantised_RD,
            scale_R,
            size,
            x_RD.stride(0),
            largest=127.0 if dtype == torch.int8 else torch.finfo(dtype).max,
            BLOCK_D=triton.next_power_of_2(size),
            num_warps=4,
        )
    return quantised_RD, scale_R


@triton.jit(do_not_specialize=["num_tokens", "first_id"])
def candidates_kernel(  # type: ignore[no-untyped-def]
    hidden_ptr,  # [T, D]
    weight_ptr,  # [V, D]
    scale_ptr,  # [V], of quantised rows, or None
    hidden_scale_ptr,  # [T], of quantised hidden states, or None
    bias_ptr,  # [V] or None
    d2t_ptr,  # [V]; None: ids count from first_id. For the noise alone
    seed_ptr,  # [1]; None: no noise
    key_ptr,  # [N, T]
    row_ptr,  # [N, T]
    logit_ptr,  # [N, T] or None
    lse_ptr,  # [N, T] or None
    num_tokens,
    num_rows,
    hidden_size,
    hidden_stride,
    weight_stride,
    first_id,
    logit_scale,
    soft_cap,
    EVEN: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Each token's best row of a tile of the head: its key, which is compared, and its number.

    Where there is `lse_ptr`, also log sum exp of the tile's logits; with noise, the best row's own logit beside it.
    Program (block of tokens, tile): the blocks one after another, so that they find the tile in the L2 cache.
    """
    tile = tl.program_id(1)
    row_V = tile * BLOCK_V + tl.arange(0, BLOCK_V)
    token_T = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    d_D = tl.arange(0, BLOCK_D)
    # What lies beyond the last row or token reads the last one again: loads without a mask keep their 16 bytes.
    from_V = tl.minimum(row_V, num_rows - 1).to(tl.int64)
    from_T = tl.minimum(token_T, num_tokens - 1).to(tl.int64)
    weight_ptrs_VD = weight_ptr + from_V[:, None] * weight_stride + d_D[None, :]
    hidden_ptrs_DT = hidden_ptr + from_T[None, :] * hidden_stride + d_D[:, None]

    INTEGER: tl.constexpr = hidden_ptr.dtype.element_ty == tl.int8
    sum_VT = tl.zeros((BLOCK_V, BLOCK_T), tl.int32 if INTEGER else tl.float32)
    for start in range(0, hidden_size, BLOCK_D):
        if EVEN:
            weight_VD = tl.load(weight_ptrs_VD, eviction_policy="evict_first")
            hidden_DT = tl.load(hidden_ptrs_DT)
        else:
            inside_D = d_D < hidden_size - start
            weight_VD = tl.load(weight_ptrs_VD, mask=inside_D[None, :], other=0.0, eviction_policy="evict_first")
            hidden_DT = tl.load(hidden_ptrs_DT, mask=inside_D[:, None], other=0.0)
        sum_VT = _multiply_add(weight_VD, hidden_DT, sum_VT)
        weight_ptrs_VD += BLOCK_D
        hidden_ptrs_DT += BLOCK_D

    z_VT = sum_VT.to(tl.float32)
    if scale_ptr is not None:
        z_VT *= tl.load(scale_ptr + from_V)[:, None]
    if hidden_scale_ptr is not None:
        z_VT *= tl.load(hidden_scale_ptr + from_T)[None, :]
    if bias_ptr is not None:
        z_VT += tl.load(bias_ptr + from_V).to(tl.float32)[:, None]
    z_VT = tl.where((row_V < num_rows)[:, None] & (z_VT == z_VT), z_VT, float("-inf"))

    to_T = tile.to(tl.int64) * num_tokens + token_T
    inside_T = token_T < num_tokens
    key_VT = z_VT
    if seed_ptr is not None:
        id_V = row_V + (tl.load(d2t_ptr + from_V).to(tl.int32) if d2t_ptr is not None else first_id)
        key_VT = _logits(z_VT, logit_scale, soft_cap) + _gumbel_noise(tl.load(seed_ptr), id_V, token_T)
    key_T, best_T = tl.max(key_VT, axis=0, return_indices=True, return_indices_tie_break_left=True)
    tl.store(key_ptr + to_T, key_T, mask=inside_T)
    tl.store(row_ptr + to_T, tile * BLOCK_V + best_T, mask=inside_T)
    if lse_ptr is not None:
        logit_VT = _logits(z_VT, logit_scale, soft_cap)
        if logit_ptr is not None:
            is_best_VT = tl.arange(0, BLOCK_V)[:, None] == best_T[None, :]
            logit_T = tl.max(tl.where(is_best_VT, logit_VT, float("-inf")), axis=0)
            tl.store(logit_ptr + to_T, logit_T, mask=inside_T)
        largest_T = or_zero(tl.max(logit_VT, axis=0))
        lse_T = largest_T + tl.log(tl.sum(tl.exp(logit_VT - largest_T[None, :]), axis=0))
        tl.store(lse_ptr + to_T, lse_T, mask=inside_T)


@triton.jit(do_not_specialize=["num_tokens", "first_id"])
def best_kernel(  # type: ignore[no-untyped-def]
    tile_key_ptr,  # [N, T]
    tile_row_ptr,  # [N, T]
    tile_logit_ptr,  # [N, T]; None: the key is the row's z
    tile_lse_ptr,  # [N, T] or None
    d2t_ptr,  # [V]; None: ids count from first_id
    id_ptr,  # [T]
    key_ptr,  # [T]
    logit_ptr,  # [T] or None
    lse_ptr,  # [T] or None
    num_tokens,
    num_tiles,
    first_id,
    logit_scale,
    soft_cap,
    BLOCK_N: tl.constexpr,
):
    """A token's best candidate of all tiles, the first of equals, and its id; program (token)."""
    token = tl.program_id(0)
    lane_N = tl.arange(0, BLOCK_N)
    key_N = tl.full((BLOCK_N,), float("-inf"), tl.float32)
    tile_N = tl.where(lane_N < num_tiles, lane_N, num_tiles)  # beyond the last: loses against every tile
    for start in range(0, num_tiles, BLOCK_N):
        place_N = (start + lane_N).to(tl.int64) * num_tokens + token
        next_N = tl.load(tile_key_ptr + place_N, mask=start + lane_N < num_tiles, other=float("-inf"))
        tile_N = tl.where(next_N > key_N, start + lane_N, tile_N)
        key_N = tl.maximum(key_N, next_N)
    key = tl.max(key_N, axis=0)
    place = tl.min(tl.where(key_N == key, tile_N, num_tiles), axis=0).to(tl.int64) * num_tokens + token
    row = tl.load(tile_row_ptr + place).to(tl.int64)
    if d2t_ptr is not None:
        tl.store(id_ptr + token, row + tl.load(d2t_ptr + row))
    else:
        tl.store(id_ptr + token, row + first_id)
    tl.store(key_ptr + token, key)
    if lse_ptr is not None:
        largest_N = tl.full((BLOCK_N,), float("-inf"), tl.float32)
        for start in range(0, num_tiles, BLOCK_N):
            place_N = (start + lane_N).to(tl.int64) * num_tokens + token
            lse_N = tl.load(tile_lse_ptr + place_N, mask=start + lane_N < num_tiles, other=float("-inf"))
            largest_N = tl.maximum(largest_N, lse_N)
        largest = or_zero(tl.max(largest_N, axis=0))
        sum_N = tl.zeros((BLOCK_N,), tl.float32)
        for start in range(0, num_tiles, BLOCK_N):
            place_N = (start + lane_N).to(tl.int64) * num_tokens + token
            lse_N = tl.load(tile_lse_ptr + place_N, mask=start + lane_N < num_tiles, other=float("-inf"))
            sum_N += tl.exp(lse_N - largest)
        tl.store(lse_ptr + token, largest + tl.log(tl.sum(sum_N, axis=0)))
        if tile_logit_ptr is not None:
            tl.store(logit_ptr + token, tl.load(tile_logit_ptr + place))
        else:
            tl.store(logit_ptr + token, _logits(key, logit_scale, soft_cap))


@triton.jit
def quantize_rows_kernel(  # type: ignore[no-untyped-def]
    x_ptr,  # [R, D]
    quantised_ptr,  # [R, D]
    scale_ptr,  # [R]
    size,
    stride,
    largest: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """A row over its scale, max |x| / largest, rounded to the nearest; program (row)."""
    row = tl.program_id(0).to(tl.int64)
    d_D = tl.arange(0, BLOCK_D)
    x_D = tl.load(x_ptr + row * stride + d_D, mask=d_D < size, other=0.0).to(tl.float32)
    scale = tl.maximum(tl.max(tl.abs(x_D), axis=0), 1e-12) / largest
    y_D = tl.minimum(tl.maximum(x_D / scale, -largest), largest)
    if quantised_ptr.dtype.element_ty == tl.int8:
        y_D = (y_D + 12582912.0) - 12582912.0  # 1.5 * 2^23: what is added to it is rounded to the nearest integer
    tl.store(quantised_ptr + row * size + d_D, y_D.to(quantised_ptr.dtype.element_ty), mask=d_D < size)
    tl.store(scale_ptr + row, scale)


@triton.jit
def _multiply_add(weight_VD, hidden_DT, sum_VT):  # type: ignore[no-untyped-def]
    """sum + w h; of int8 factors in integers, exactly."""
    if hidden_DT.dtype == tl.int8:
        if INTERPRETED:
            return sum_VT + tl.dot(weight_VD.to(tl.float32), hidden_DT.to(tl.float32)).to(tl.int32)
        else:
            return tl.dot(weight_VD, hidden_DT, sum_VT, out_dtype=tl.int32)
    elif INTERPRETED:
        return dot(weight_VD, hidden_DT, sum_VT)
    else:
        return dot(weight_VD.to(hidden_DT.dtype), hidden_DT, sum_VT)


@triton.jit
def _logits(z, logit_scale, soft_cap):  # type: ignore[no-untyped-def]
    """Capped and scaled; -inf, which says that there is no such row or that it is NaN, keeps saying so."""
    if soft_cap is not None:
        z = tl.where(z == float("-inf"), z, soft_cap * tanh(z / soft_cap))
    return logit_scale * z


@triton.jit
def _gumbel_noise(seed, id_V, token_T):  # type: ignore[no-untyped-def]
    """-log(-log u); u from 23 bits of Philox of (id, token, 0, 0): an odd multiple of 2^-24, neither 0 nor 1."""
    id_VT = id_V[:, None] + tl.zeros_like(token_T)[None, :]
    token_VT = token_T[None, :] + tl.zeros_like(id_V)[:, None]
    bits_VT, _, _, _ = tl.philox(seed, id_VT, token_VT, tl.zeros_like(id_VT), tl.zeros_like(id_VT))
    u_VT = ((bits_VT >> 9).to(tl.float32) + 0.5) * 1.1920928955078125e-07
    return -tl.log(-tl.log(u_VT))
