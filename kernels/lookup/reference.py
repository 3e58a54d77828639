"""Prompt lookup in plain PyTorch: what runs where there is no GPU, and the oracle of the kernel in kernel.py."""

# Shapes: B requests, N blocks of a request, S slots of the KV cache, R blocks of it, P = N * block_size positions.

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class LookupArguments(NamedTuple):
    """Arguments of the operator; `ops.lookup_tokens` says what they are."""

    table_S: Tensor
    block_table_BN: Tensor
    positions_B: Tensor
    block_size: int
    min_match: int
    max_match: int


def lookup_tokens(a: LookupArguments) -> Tensor:
    """`ops.lookup_tokens`; every position of every request exists at once, [B, P], whatever the requests' lengths."""
    history_BP = _history(a.table_S, a.block_table_BN, a.block_size)
    num_positions = history_BP.size(1)
    end_P = torch.arange(num_positions, dtype=torch.int32, device=history_BP.device)
    length_BP = torch.zeros_like(history_BP)
    last_B1 = a.positions_B[:, None].long()
    matches_BP = (end_P < last_B1) & (last_B1 < num_positions)
    for offset in range(a.max_match):
        token_B1 = history_BP.gather(1, (last_B1 - offset).clamp(0, num_positions - 1))
        earlier_BP = F.pad(history_BP, (offset, 0), value=-1)[:, :num_positions]
        matches_BP = matches_BP & (earlier_BP == token_B1) & (token_B1 >= 0)
        length_BP += matches_BP
    best_B1 = (length_BP * num_positions + end_P).argmax(1, keepdim=True)  # the longest, of equals the latest
    next_B1 = history_BP.gather(1, (best_B1 + 1).clamp(max=num_positions - 1)).clamp(min=-1)
    return torch.where(length_BP.gather(1, best_B1) >= a.min_match, next_B1, -1)[:, 0]


def _history(table_S: Tensor, block_table_BN: Tensor, block_size: int) -> Tensor:
    """Each request's tokens by position, int32 [B, P]; -1 where a block or a slot is none of the table's."""
    num_blocks = -(-len(table_S) // block_size)
    # A last block that is not whole is filled up, and after it comes one for entries that are no block.
    padded_size = (num_blocks + 1) * block_size
    block_RS = F.pad(table_S, (0, padded_size - len(table_S)), value=-1).view(-1, block_size)
    is_block_BN = (block_table_BN >= 0) & (block_table_BN < num_blocks)
    return block_RS[torch.where(is_block_BN, block_table_BN, num_blocks)].flatten(1)
