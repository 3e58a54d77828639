"""Lookup in the draft model of vLLM, where the tokens are at hand: on a CPU.

What the drafter's KV cache holds of verified tokens, a table holds too: one token id for each of its slots, written
where keys and values are written. So it follows prefix caching, preemption, chunked prefill and forks by itself, and
slots of rejected tokens are overwritten when their keys are. A request's text is what the table has at the slots of its
block table, and the draft so far.

vLLM calls a draft model once for the verified tokens of all requests (the first pass), then once for each further token
of the draft (a step). A step whose every request has its token already is left out: no layer, no head.
"""

# Shapes: T rows of a pass, B requests, R of them that the module drafts for, D hidden size, V vocabulary, N blocks of P
# slots.

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vllm_mtp.contract.lookup import NO_TOKEN, Lookup, Text
from vllm_mtp.serving.lookup_pass import AttentionLayer, PassMetadata, num_blocks_and_block_size

_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


class HostLookup:
    """The table, and the state of the round that is being drafted."""

    def __init__(self, lookup: Lookup, num_speculative_tokens: int, layer: AttentionLayer) -> None:
        self.lookup = lookup
        self.num_speculative_tokens = num_speculative_tokens
        self.layer = layer
        self.block_size = 0
        self._table_NP = np.empty((0, 0), dtype=np.int32)
        self._first_pass: tuple[PassMetadata, Tensor, Tensor] | None = None
        """Metadata, positions and states of a first pass whose rows were not chosen from yet."""
        self._step = 0
        self._has_left_out = False
        """Whether a step of the round at hand was left out: the module cannot go on from there."""
        self._texts: list[Text] = []
        self._tokens: list[int] = []
        """Copied tokens of the step at hand, by request; NO_TOKEN: the module's."""
        self._fed_BD: NDArray[Any] | None = None
        """The states that the next step, if there is one, is fed with."""

    def begin(self, input_ids_T: Tensor, hidden_TD: Tensor, metadata: PassMetadata) -> bool:
        """Takes note of a pass before it is computed.

        Args:
            input_ids_T: the token that each row is fed with.
            hidden_TD: the state that it is fed with.
            metadata: of the pass.

        Returns:
            Whether the module must compute it; if not, `hidden_TD` stands for its result.
        """
        if self._is_step(hidden_TD, metadata):
            self._step += 1
            for text, token in zip(self._texts, input_ids_T.tolist(), strict=False):
                text.append(token)
            self._look_up()
            self._has_left_out = NO_TOKEN not in self._tokens
            return not self._has_left_out
        self.forget()
        num_rows = metadata.num_actual_tokens
        self._write(metadata.slot_mapping[:num_rows].numpy(), input_ids_T[:num_rows].numpy())
        return True

    def end(self, states_TD: Tensor, positions_T: Tensor, metadata: PassMetadata) -> None:
        """Takes note of what a pass returned."""
        if self._fed_BD is None:
            self._first_pass = metadata, positions_T, states_TD
        else:
            self._fed_BD = _bits(states_TD)[: len(self._texts)].copy()

    def top_tokens(self, states_BD: Tensor, of_module: Callable[[Tensor], Tensor]) -> Tensor:
        """The draft token of each request, [B]: what it copies, else the module's best."""
        tokens = self.tokens(states_BD)
        if tokens is None:
            return of_module(states_BD)
        rows = [row for row, token in enumerate(tokens) if token == NO_TOKEN]
        if len(rows) == len(tokens):
            return of_module(states_BD)
        token_B = torch.from_numpy(np.array(tokens))
        if rows:
            token_B[rows] = of_module(states_BD[rows]).to(token_B.dtype)
        return token_B

    def logits(self, states_BD: Tensor, of_module: Callable[[Tensor], Tensor | None], vocab_size: int) -> Tensor | None:
        """Logits of each request, [B, V]: a copied token's draft probability is one, at every temperature."""
        tokens = self.tokens(states_BD)
        if tokens is None:
            return of_module(states_BD)
        rows = [row for row, token in enumerate(tokens) if token == NO_TOKEN]
        logits_RV = of_module(states_BD[rows]) if rows else None
        if rows and (logits_RV is None or len(rows) == len(tokens)):
            return logits_RV
        logits_BV = torch.full((len(tokens), vocab_size), float("-inf"))
        if logits_RV is not None:
            logits_BV[rows] = logits_RV.float()
        copied = [row for row, token in enumerate(tokens) if token != NO_TOKEN]
        logits_BV[copied, [tokens[row] for row in copied]] = 0.0
        return logits_BV

    def tokens(self, states_BD: Tensor) -> list[int] | None:
        """What each request copies in the step at hand; NO_TOKEN: the module's token.

        Args:
            states_BD: the states that vLLM chose from what the pass returned.

        Returns:
            None where no pass is at hand, or one of other requests.
        """
        if self._first_pass is not None:
            (metadata, positions_T, states_TD), self._first_pass = self._first_pass, None
            starts = metadata.query_start_loc.tolist()
            chosen_BD = _bits(states_BD)
            if len(starts) != len(chosen_BD) + 1:
                return None
            rows = _chosen_rows(_bits(states_TD), starts, chosen_BD, self.num_speculative_tokens + 1)
            self._texts = self._read(rows, positions_T.numpy(), metadata)
            self._fed_BD = chosen_BD.copy()
            self._look_up()
        return self._tokens if len(self._tokens) == states_BD.shape[0] else None

    def forget(self) -> None:
        """No round is being drafted."""
        self._first_pass, self._step, self._has_left_out = None, 0, False
        self._texts, self._tokens, self._fed_BD = [], [], None

    def _is_step(self, hidden_TD: Tensor, metadata: PassMetadata) -> bool:
        """Whether a pass goes on with the round at hand: a row for each request, fed with what the class gave."""
        fed_BD = self._fed_BD
        if fed_BD is None or metadata.max_query_len != 1 or self._step + 1 >= self.num_speculative_tokens:
            return False
        same_batch = metadata.query_start_loc.shape[0] - 1 == len(fed_BD) <= hidden_TD.shape[0]
        return same_batch and np.array_equal(_bits(hidden_TD)[: len(fed_BD)], fed_BD)

    def _look_up(self) -> None:
        least, most = self.lookup.least(self._step), self.lookup.max_match
        self._tokens = [text.find(least, most) for text in self._texts]
        if self._step >= self.lookup.module_steps or self._has_left_out:
            self._tokens = [
                text.last() if token == NO_TOKEN else token
                for text, token in zip(self._texts, self._tokens, strict=True)
            ]

    def _write(self, slots_T: NDArray[np.int64], ids_T: NDArray[np.int32]) -> None:
        if not self.block_size:
            num_blocks, self.block_size = num_blocks_and_block_size(self.layer)
            self._table_NP = np.full((num_blocks, self.block_size), NO_TOKEN, dtype=np.int32)
        if slots_T.min(initial=0) < 0:
            slots_T, ids_T = slots_T[slots_T >= 0], ids_T[slots_T >= 0]
        self._table_NP.reshape(-1)[slots_T] = ids_T

    def _read(self, rows: Sequence[int], positions_T: NDArray[np.int64], metadata: PassMetadata) -> list[Text]:
        """The text of each request up to its chosen row; an empty one where the row is not known."""
        texts = []
        for blocks, row in zip(metadata.block_table.numpy(), rows, strict=False):
            length = int(positions_T[row]) + 1 if row >= 0 else 0
            text_NP = self._table_NP[blocks[: -(-length // self.block_size)]]
            texts.append(Text(text_NP.reshape(-1)[:length]))
        return texts


def _bits(states_TD: Tensor) -> NDArray[Any]:
    """States as integers, which are equal where the states are: numpy has no bfloat16."""
    return states_TD.detach().view(_INTEGERS[states_TD.element_size()]).numpy()


def _chosen_rows(
    states_TD: NDArray[Any], query_start_loc: Sequence[int], chosen_BD: NDArray[Any], num_last_rows: int
) -> list[int]:
    """As `chosen_rows`, which has one small operation of torch after another: they cost more than what they compute."""
    rows = []
    for chosen_D, start, end in zip(chosen_BD, query_start_loc[:-1], query_start_loc[1:], strict=True):
        chosen = chosen_D.tobytes()
        last_rows = range(end - 1, max(start, end - num_last_rows) - 1, -1)
        rows.append(next((row for row in last_rows if states_TD[row].tobytes() == chosen), -1))
    return rows
