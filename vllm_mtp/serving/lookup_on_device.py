"""Lookup in the draft model of vLLM, where the tokens are on a GPU.

The table of one token id per KV slot (lookup_on_host.py) is written by every pass, those of the draft's further tokens
included, so that the draft so far stands in it too. Nothing asks the host: all of it can be captured in a CUDA graph,
and nothing is left out of one. So the module computes every step, and a match of `min_match` tokens overrules it at
each of them; `module_steps` has no effect here.
"""

# Shapes: T rows of a pass, B requests, D hidden size, V vocabulary, S slots.

from collections.abc import Callable

import torch
from torch import Tensor

from vllm_mtp.contract.lookup import NO_TOKEN, Lookup
from vllm_mtp.kernels.ops import lookup_tokens
from vllm_mtp.serving.lookup_pass import AttentionLayer, PassMetadata, chosen_rows, num_blocks_and_block_size


class DeviceLookup:
    """The table, and the pass that was computed last."""

    def __init__(self, lookup: Lookup, num_speculative_tokens: int, layer: AttentionLayer) -> None:
        self.lookup = lookup
        self.num_speculative_tokens = num_speculative_tokens
        self.layer = layer
        self.block_size = 0
        self._table_S: Tensor | None = None
        """And one more slot, which is written where there is none: -1."""
        self._pass: tuple[PassMetadata, Tensor, Tensor] | None = None
        """Metadata, positions and states."""

    def begin(self, input_ids_T: Tensor, hidden_TD: Tensor, metadata: PassMetadata) -> bool:
        """Writes a pass's tokens into the table; the module must compute it always.

        Raises:
            ValueError: if the KV cache is not one that lookup can read.
        """
        self.forget()
        num_blocks, self.block_size = num_blocks_and_block_size(self.layer)
        num_slots = num_blocks * self.block_size
        if self._table_S is None or len(self._table_S) != num_slots + 1:
            # Before vLLM captures graphs, it runs the same pass; to measure memory it does both on a smaller cache. A
            # table made while a graph is captured would be empty again whenever the graph is replayed.
            if input_ids_T.is_cuda and torch.cuda.is_current_stream_capturing():
                self._table_S = None
                return True
            self._table_S = input_ids_T.new_full((num_slots + 1,), NO_TOKEN, dtype=torch.int32)
        num_rows = min(len(input_ids_T), len(metadata.slot_mapping))
        self._table_S[metadata.slot_mapping[:num_rows].long()] = input_ids_T[:num_rows].int()
        return True

    def end(self, states_TD: Tensor, positions_T: Tensor, metadata: PassMetadata) -> None:
        """Takes note of what a pass returned."""
        self._pass = metadata, positions_T, states_TD

    def forget(self) -> None:
        """No pass is at hand."""
        self._pass = None

    def top_tokens(self, states_BD: Tensor, of_module: Callable[[Tensor], Tensor]) -> Tensor:
        """The draft token of each request, [B]: what it copies, else the module's best."""
        copied_B, top_B = self.tokens(states_BD), of_module(states_BD)
        return top_B if copied_B is None else torch.where(copied_B == NO_TOKEN, top_B, copied_B.to(top_B.dtype))

    def logits(self, states_BD: Tensor, of_module: Callable[[Tensor], Tensor | None], vocab_size: int) -> Tensor | None:
        """Logits of each request, [B, V], in the memory of the module's, which are made anew for every draft step: a
        copied token's draft probability is one, at every temperature."""
        copied_B, logits_BV = self.tokens(states_BD), of_module(states_BD)
        if copied_B is None or logits_BV is None:
            return logits_BV
        is_copied_B1, token_B1 = (copied_B != NO_TOKEN)[:, None], copied_B.clamp(min=0).long()[:, None]
        logits_BV.masked_fill_(is_copied_B1, float("-inf"))
        return logits_BV.scatter_(1, token_B1, logits_BV.gather(1, token_B1).masked_fill(is_copied_B1, 0.0))

    def tokens(self, states_BD: Tensor) -> Tensor | None:
        """What each request copies, int32 [B]; NO_TOKEN: the module's token.

        Args:
            states_BD: the states that vLLM chose from what the pass returned.

        Returns:
            None where no pass is at hand, or one of fewer requests. A pass is asked of once: where a replayed graph has
            taken its place (vLLM's breakable graphs), nothing is known of it.
        """
        held, self._pass = self._pass, None
        if held is None or self._table_S is None:
            return None
        metadata, positions_T, states_TD = held
        num_requests = len(states_BD)
        if len(metadata.query_start_loc) <= num_requests:
            return None
        if metadata.max_query_len == 1:
            positions_B = positions_T[:num_requests]
        else:
            starts = metadata.query_start_loc[: num_requests + 1]
            row_B = chosen_rows(states_TD, starts, states_BD, self.num_speculative_tokens + 1)
            positions_B = torch.where(row_B < 0, -1, positions_T[row_B.clamp(min=0)])
        return lookup_tokens(
            self._table_S[:-1],
            metadata.block_table[:num_requests],
            positions_B,
            block_size=self.block_size,
            min_match=self.lookup.min_match,
            max_match=self.lookup.max_match,
        )
