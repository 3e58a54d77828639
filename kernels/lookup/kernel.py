"""Prompt lookup in vLLM's KV slots: the token that followed the longest earlier occurrence of a request's last tokens.

    key(j) = (m(j), j, h[j+1] + 1) where m(j) >= min_match, else 0        m, h: `ops.lookup_tokens`
    token  = the last of max_j key(j), less 1

A key is one int64, so that "longest, of equals the latest" is a maximum: programs that share a request need no order
and no second pass over what they found, and what they compared is never written. Three launches: zeros, this, and the
lower halves of the keys. The grid depends on shapes alone, while a program's loop ends with its request: a replayed
CUDA graph reads of the table what the requests are long, not what they might be.

Almost every position fails at its first token: one gather of its block and one of its token. Only those that still
match read on, and a block of positions of which none does is left.
"""

# Shapes: B requests, N blocks of a request, S slots of the KV cache; P positions: of a block in a kernel, of all that
# the block table has room for outside.

import torch
import triton
import triton.language as tl
from torch import Tensor

from vllm_mtp.kernels.common.tables import Launch
from vllm_mtp.kernels.lookup.reference import LookupArguments

LAUNCH = Launch({"BLOCK_P": 512}, num_warps=4)
"""Not yet measured on a GPU."""
NUM_PROGRAMS = 4096
"""Programs of all requests: two or three for each that a large GPU runs at once. Of short requests most end at once."""


def lookup_tokens(a: LookupArguments) -> Tensor:
    """Launches the kernel; the plain function of this name says what comes out."""
    num_requests, num_blocks = a.block_table_BN.shape
    key_B = torch.zeros(num_requests, dtype=torch.int64, device=a.table_S.device)
    if num_requests:
        num_chunks = triton.cdiv(num_blocks * a.block_size, LAUNCH.tiles["BLOCK_P"])
        longest_match_kernel[num_requests, min(num_chunks, triton.cdiv(NUM_PROGRAMS, num_requests))](
            a.table_S,
            a.block_table_BN,
            a.positions_B,
            key_B,
            len(a.table_S),
            num_blocks,
            a.block_table_BN.stride(0),
            block_size=a.block_size,
            min_match=a.min_match,
            max_match=a.max_match,
            **LAUNCH.arguments(),
        )
    return key_B.view(torch.int32)[::2] - 1


@triton.jit(do_not_specialize=["num_slots", "num_blocks", "block_table_stride"])
def longest_match_kernel(  # type: ignore[no-untyped-def]
    table_ptr,  # [S]
    block_table_ptr,  # [B, N]
    positions_ptr,  # [B]
    key_ptr,  # [B], zeros
    num_slots,
    num_blocks,
    block_table_stride,
    block_size: tl.constexpr,
    min_match: tl.constexpr,
    max_match: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """Raises a request's key to the largest of every so many blocks of positions; program (request, first block)."""
    request = tl.program_id(0)
    blocks_ptr = block_table_ptr + request.to(tl.int64) * block_table_stride
    last = tl.load(positions_ptr + request).to(tl.int64)
    last = tl.where((last >= 0) & (last < num_blocks * block_size), last, -1).to(tl.int32)
    best_P = tl.zeros((BLOCK_P,), tl.int64)
    for start in range(tl.program_id(1) * BLOCK_P, last, tl.num_programs(1) * BLOCK_P):
        end_P = start + tl.arange(0, BLOCK_P)
        matches_P = end_P < last
        length_P = tl.zeros((BLOCK_P,), tl.int32)
        offset, num_matching = 0, 1
        while (offset < max_match) & (num_matching > 0):
            token = _tokens(table_ptr, blocks_ptr, last - offset, last >= offset, num_slots, block_size)
            earlier_P = _tokens(
                table_ptr, blocks_ptr, end_P - offset, matches_P & (end_P >= offset), num_slots, block_size
            )
            matches_P = matches_P & (earlier_P == token) & (earlier_P >= 0)
            length_P += matches_P.to(tl.int32)
            num_matching = tl.sum(matches_P.to(tl.int32), axis=0)
            offset += 1
        found_P = length_P >= min_match
        next_P = tl.maximum(_tokens(table_ptr, blocks_ptr, end_P + 1, found_P, num_slots, block_size), -1)
        # 6 bits of the length, 25 of the position, 32 of the token.
        key_P = (length_P.to(tl.int64) << 57) | (end_P.to(tl.int64) << 32) | (next_P.to(tl.int64) + 1)
        best_P = tl.maximum(best_P, tl.where(found_P, key_P, 0))
    best = tl.max(best_P, axis=0)
    if best > 0:
        tl.atomic_max(key_ptr + request, best, sem="relaxed")


@triton.jit
def _tokens(table_ptr, blocks_ptr, position, wanted, num_slots, block_size):  # type: ignore[no-untyped-def]
    """The request's tokens at these positions, which its row of blocks has; -1 where not wanted or not in the table."""
    block = tl.load(blocks_ptr + position // block_size, mask=wanted, other=-1).to(tl.int64)
    slot = block * block_size + position % block_size  # of block -1, below 0
    return tl.load(table_ptr + slot, mask=(slot >= 0) & (slot < num_slots), other=-1)
