"""The token that a draft head chooses, without its logits: a matrix product that ends in an argmax.

    z_tv = s_v r_t <w_v, h_t> + b_v                         s, r: scales of quantized rows, where there are any
    i_t  = argmax_v z_tv                                    a soft cap and a positive factor would not move it
    id_t = i_t + d2t[i_t]

A draft step is bound by the bytes of its head: one program multiplies a tile of rows w with all h of a block of tokens
and leaves one candidate for each token, eight bytes; a second launch takes the best of a token's candidates. The logits
[T, V] are never written, and of d2t one entry is read for each token.

Rows of the head are the left factor: T is 1 to a few dozen, V is long, and a matrix instruction wants 64 rows there.
Rows in 8 bits: against hidden states in 8 bits they go into the matrix instruction as they are; against wider hidden
states they are widened in registers.

NaN among the logits of a token counts as -inf. Of equal candidates the lowest row wins.

Source: the argmax epilogue is FlashSampling's (arXiv 2603.15854), whose noise this has not; quantized rows and d2t are
new here.
"""

# Shapes: T tokens, V rows of the head, D hidden size, N tiles of rows, R rows to quantize; of a block in a kernel, of
# the whole outside and behind pointers.

import torch
import triton
import triton.language as tl

from vllm_mtp.kernels.common.tables import TOKEN_BUCKETS, Launch, Table, launch, shared_bytes
from vllm_mtp.kernels.common.triton_common import INTERPRETED, dot
from vllm_mtp.kernels.draft_head.reference import DraftPart, HeadArguments, QuantizedRows, RowsArguments


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
"""What `bench tune-kernels` measures beside a table's entry: BLOCK_V, BLOCK_D, warps, stages."""
_BEST = Launch({"BLOCK_N": 1024}, num_warps=4)
"""Launch of `best_kernel`: a head of 131,072 rows has its 1,024 tiles of 128 in one block."""


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


def best_rows(a: HeadArguments) -> DraftPart:
    """Launches both kernels; the plain function of this name says what comes out."""
    num_tokens, hidden_size = a.hidden_TD.shape
    num_rows = len(a.weight_VD)
    part = DraftPart(
        torch.empty(num_tokens, dtype=torch.int64, device=a.hidden_TD.device),
        torch.empty(num_tokens, dtype=torch.float32, device=a.hidden_TD.device),
    )
    if not num_tokens:
        return part
    chosen = launch(table_for(a.hidden_TD.dtype, a.weight_VD.dtype), num_tokens, a.hidden_TD.device)
    num_tiles = triton.cdiv(num_rows, chosen.tiles["BLOCK_V"])
    tile_logit_NT = part.logit_T.new_empty(num_tiles, num_tokens)
    tile_row_NT = tile_logit_NT.new_empty(num_tiles, num_tokens, dtype=torch.int32)
    candidates_kernel[triton.cdiv(num_tokens, chosen.tiles["BLOCK_T"]), num_tiles](
        a.hidden_TD,
        a.weight_VD,
        a.scale_V,
        a.hidden_scale_T,
        a.bias_V,
        tile_logit_NT,
        tile_row_NT,
        num_tokens,
        num_rows,
        hidden_size,
        a.hidden_TD.stride(0),
        a.weight_VD.stride(0),
        EVEN=hidden_size % chosen.tiles["BLOCK_D"] == 0,
        **chosen.arguments(),
    )
    best_kernel[(num_tokens,)](
        tile_logit_NT, tile_row_NT, a.d2t_V, *part, num_tokens, num_tiles, a.first_id, **_BEST.arguments()
    )
    return part


def quantize_rows(a: RowsArguments) -> QuantizedRows:
    """Launches the kernel, one program for each row; the plain function of this name says what comes out."""
    num_rows, size = a.rows_RD.shape
    found = QuantizedRows(
        torch.empty(num_rows, size, dtype=a.dtype, device=a.rows_RD.device),
        torch.empty(num_rows, dtype=torch.float32, device=a.rows_RD.device),
    )
    if num_rows:
        quantize_rows_kernel[(num_rows,)](
            a.rows_RD,
            *found,
            size,
            a.rows_RD.stride(0),
            largest=127.0 if a.dtype == torch.int8 else torch.finfo(a.dtype).max,
            BLOCK_D=triton.next_power_of_2(size),
            num_warps=4,
        )
    return found


@triton.jit(do_not_specialize=["num_tokens"])
def candidates_kernel(  # type: ignore[no-untyped-def]
    hidden_ptr,  # [T, D]
    weight_ptr,  # [V, D]
    scale_ptr,  # [V], of quantized rows, or None
    hidden_scale_ptr,  # [T], of quantized hidden states, or None
    bias_ptr,  # [V] or None
    logit_ptr,  # [N, T]
    row_ptr,  # [N, T]
    num_tokens,
    num_rows,
    hidden_size,
    hidden_stride,
    weight_stride,
    EVEN: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Each token's best row of a tile of the head: its logit and its number.

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
    logit_T, best_T = tl.max(z_VT, axis=0, return_indices=True, return_indices_tie_break_left=True)
    tl.store(logit_ptr + to_T, logit_T, mask=inside_T)
    tl.store(row_ptr + to_T, tile * BLOCK_V + best_T, mask=inside_T)


@triton.jit(do_not_specialize=["num_tokens", "first_id"])
def best_kernel(  # type: ignore[no-untyped-def]
    tile_logit_ptr,  # [N, T]
    tile_row_ptr,  # [N, T]
    d2t_ptr,  # [V]; None: ids count from first_id
    id_ptr,  # [T]
    logit_ptr,  # [T]
    num_tokens,
    num_tiles,
    first_id,
    BLOCK_N: tl.constexpr,
):
    """A token's best candidate of all tiles, the first of equals, and its id; program (token)."""
    token = tl.program_id(0)
    lane_N = tl.arange(0, BLOCK_N)
    logit_N = tl.full((BLOCK_N,), float("-inf"), tl.float32)
    tile_N = tl.where(lane_N < num_tiles, lane_N, num_tiles)  # beyond the last: loses against every tile
    for start in range(0, num_tiles, BLOCK_N):
        place_N = (start + lane_N).to(tl.int64) * num_tokens + token
        next_N = tl.load(tile_logit_ptr + place_N, mask=start + lane_N < num_tiles, other=float("-inf"))
        tile_N = tl.where(next_N > logit_N, start + lane_N, tile_N)
        logit_N = tl.maximum(logit_N, next_N)
    logit = tl.max(logit_N, axis=0)
    place = tl.min(tl.where(logit_N == logit, tile_N, num_tiles), axis=0).to(tl.int64) * num_tokens + token
    row = tl.load(tile_row_ptr + place).to(tl.int64)
    if d2t_ptr is not None:
        tl.store(id_ptr + token, row + tl.load(d2t_ptr + row))
    else:
        tl.store(id_ptr + token, row + first_id)
    tl.store(logit_ptr + token, logit)


@triton.jit
def quantize_rows_kernel(  # type: ignore[no-untyped-def]
    x_ptr,  # [R, D]
    quantized_ptr,  # [R, D]
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
    if quantized_ptr.dtype.element_ty == tl.int8:
        y_D = (y_D + 12582912.0) - 12582912.0  # 1.5 * 2^23: what is added to it is rounded to the nearest integer
    tl.store(quantized_ptr + row * size + d_D, y_D.to(quantized_ptr.dtype.element_ty), mask=d_D < size)
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
