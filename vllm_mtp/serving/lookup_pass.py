"""What lookup is told of a pass by vLLM, and what it must find out by itself: the chosen rows, the blocks' size."""

# Shapes: T rows of a pass, B requests, Q rows of a request that may be the chosen one, D hidden size, V vocabulary.

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from vllm_mtp.serving.options_check import ITS_WINDOW


class PassMetadata(Protocol):
    """What is read of vLLM's attention metadata of the drafter's layer. Not every attention backend has it."""

    num_actual_tokens: int
    max_query_len: int
    query_start_loc: Tensor
    """[B + 1]: the rows of request b are query_start_loc[b] to query_start_loc[b + 1] - 1."""
    block_table: Tensor
    """[B, blocks]"""
    slot_mapping: Tensor
    """[T]: the slot of each row, -1 for none."""


class PassLookup(Protocol):
    """What the draft model does with lookup, on a CPU or a GPU: it tells of each pass, then asks for draft tokens."""

    def begin(self, input_ids_T: Tensor, hidden_TD: Tensor, metadata: PassMetadata) -> bool:
        """Takes note of a pass before it is computed; says whether the module must compute it."""

    def end(self, states_TD: Tensor, positions_T: Tensor, metadata: PassMetadata) -> None:
        """Takes note of what a pass returned."""

    def forget(self) -> None:
        """No pass is at hand: vLLM measures memory."""

    def top_tokens(self, states_BD: Tensor, of_module: Callable[[Tensor], Tensor]) -> Tensor:
        """The draft token of each request, [B]: what it copies, else the module's best."""

    def logits(self, states_BD: Tensor, of_module: Callable[[Tensor], Tensor | None], vocab_size: int) -> Tensor | None:
        """Logits of each request, [B, V]: a copied token's draft probability is one, at every temperature."""


class AttentionLayer(Protocol):
    """vLLM's attention layer of the drafter."""

    kv_cache: Tensor
    num_kv_heads: int


def num_blocks_and_block_size(layer: AttentionLayer) -> tuple[int, int]:
    """How many blocks a KV cache has, as the attention backend sees it, and how many slots each has.

    Blocks come first, or after a leading 2 for keys and values (or before it); then, in either order, the heads and the
    slots of a block; values of a head last.

    Raises:
        ValueError: for any other shape.
    """
    shape = list(layer.kv_cache.shape)
    if len(shape) == 5 and 2 in shape[:2]:
        shape.remove(2)
    if len(shape) != 4 or layer.num_kv_heads not in shape[1:3]:
        raise ValueError(
            f"expected a KV cache of blocks, slots, {layer.num_kv_heads} heads and their values, "
            f"got {list(layer.kv_cache.shape)}"
        )
    num_blocks, *inside = shape[:3]
    inside.remove(layer.num_kv_heads)
    return num_blocks, inside[0]


def why_no_lookup(input_ids_T: Tensor | None, positions_T: Tensor, metadata: object, layer: AttentionLayer) -> str:
    """What lookup lacks in a pass; empty where it has everything."""
    missing = [name for name in PassMetadata.__annotations__ if not hasattr(metadata, name)]
    if missing:
        return (
            f"{type(metadata).__name__} of the attention backend has no {', '.join(missing)}; that of FLASH_ATTN or "
            "TRITON_ATTN has (--attention-backend)"
        )
    if input_ids_T is None:
        return "vLLM gives the drafter embeddings in place of token ids"
    if positions_T.dim() != 1:
        return "a token has several positions (M-RoPE)"
    if getattr(layer, "sliding_window", None) is not None:
        return ITS_WINDOW
    try:
        num_blocks_and_block_size(layer)
    except ValueError as error:
        return str(error)
    return ""


def chosen_rows(states_TD: Tensor, query_start_loc: Tensor, chosen_BD: Tensor, num_last_rows: int) -> Tensor:
    """The row that vLLM chose of each request, [B]: the last that equals what it gave; -1: none.

    vLLM pads a request's rows with those of rejected tokens and does not tell the draft model which one counts: it is
    one of the last `num_last_rows`, K + 1.
    """
    first_B1, end_B1 = query_start_loc[:-1, None].long(), query_start_loc[1:, None].long()
    rows_BQ = end_B1 - 1 - torch.arange(num_last_rows, device=states_TD.device)
    own_BQ = (rows_BQ >= first_B1) & (rows_BQ < len(states_TD))
    rows_BQ = rows_BQ.clamp(0, len(states_TD) - 1)
    same_BQ = own_BQ & (states_TD[rows_BQ] == chosen_BD[:, None]).all(-1)
    last_B1 = same_BQ.int().argmax(dim=1, keepdim=True)
    return torch.where(same_BQ.any(1), rows_BQ.gather(1, last_B1).squeeze(1), -1)
