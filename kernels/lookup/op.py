"""Prompt lookup: the token that followed the longest earlier occurrence of a text's end, `lookup_tokens`."""

# Shapes: B requests, N blocks of a request, S slots of the KV cache.

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from vllm_mtp.kernels.common.registration import register
from vllm_mtp.kernels.lookup import reference
from vllm_mtp.kernels.lookup.reference import LookupArguments

LARGEST_MATCH = 32
LARGEST_NUM_POSITIONS = 2**25
"""Most tokens of a request: what the kernel's keys have bits for, beside a match's length and a token."""


@dataclass(frozen=True)
class TokenLookup:
    """The public function on an implementation: torch's operator, or plain PyTorch."""

    forward: Callable[[LookupArguments], Tensor]

    def lookup_tokens(
        self,
        table_S: Tensor,
        block_table_BN: Tensor,
        positions_B: Tensor,
        *,
        block_size: int,
        min_match: int,
        max_match: int,
    ) -> Tensor:
        """What followed the longest earlier occurrence of each request's last tokens, found where vLLM keeps its KV.

            h[p]  = table[block_table[b, p // block_size] * block_size + p % block_size],   n = positions[b]
            m(j)  = the most m <= max_match with h[j-i] == h[n-i] for all i < m,             0 <= j < n
            j*    = argmax_j m(j), of equals the largest j
            token = h[j* + 1] where m(j*) >= min_match, else -1

        A match may overlap the end that it is compared with. A token below 0 equals nothing, itself included. What is
        not in the table (a slot outside [0, S), a position beyond the block table) is such a token, and is not read:
        rows of padding may hold anything. Nothing depends on values but values: it can be captured in a CUDA graph.

        Args:
            table_S: token ids by KV slot, int32; -1: none was written.
            block_table_BN: each request's KV blocks, int32; may be a part of wider rows.
            positions_B: of each request's last token, int64 or int32; below 0: no request, whose result is -1.
            block_size: slots of a block.
            min_match: tokens that must be equal at least, positive.
            max_match: tokens that are compared at most, up to 32.

        Returns:
            Token ids, int32 [B]; -1: nothing was found, or nothing was written there.

        Raises:
            ValueError: for shapes, dtypes or options that do not fit together.
        """
        block_table_BN = block_table_BN if block_table_BN.stride(-1) == 1 else block_table_BN.contiguous()
        a = LookupArguments(
            table_S.contiguous(), block_table_BN, positions_B.contiguous(), block_size, min_match, max_match
        )
        _check(a)
        return self.forward(a)


def _check(a: LookupArguments) -> None:
    if a.table_S.dtype != torch.int32 or a.table_S.dim() != 1 or not len(a.table_S):
        raise ValueError(f"table: expected int32 [S], a token for each slot, got {_kind(a.table_S)}")
    if a.block_table_BN.dtype != torch.int32 or a.block_table_BN.dim() != 2 or not a.block_table_BN.size(1):
        raise ValueError(f"block_table: expected int32 [B, N], blocks of each request, got {_kind(a.block_table_BN)}")
    num_requests, num_blocks = a.block_table_BN.shape
    if a.positions_B.dtype not in (torch.int64, torch.int32) or a.positions_B.shape != (num_requests,):
        raise ValueError(f"positions: expected integers [{num_requests}], got {_kind(a.positions_B)}")
    if a.block_size < 1:
        raise ValueError(f"block_size: expected a positive number, got {a.block_size}")
    if not 1 <= a.min_match <= a.max_match <= LARGEST_MATCH:
        raise ValueError(
            f"min_match, max_match: expected 1 <= min_match <= max_match <= {LARGEST_MATCH}, "
            f"got {a.min_match} and {a.max_match}"
        )
    if num_blocks * a.block_size > LARGEST_NUM_POSITIONS:
        raise ValueError(
            f"block_table: expected at most {LARGEST_NUM_POSITIONS} positions, "
            f"got {num_blocks} blocks of {a.block_size}"
        )


def _kind(x: Tensor) -> str:
    return f"{x.dtype} {list(x.shape)}"


def _fake(a: LookupArguments) -> Tensor:
    return a.table_S.new_empty(a.positions_B.size(0))


OPERATORS = TokenLookup(
    register("lookup_tokens", reference.lookup_tokens, triton="lookup.kernel:lookup_tokens", fake=_fake)
)
PLAIN = TokenLookup(reference.lookup_tokens)
