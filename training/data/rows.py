"""Rows, what a drafter is trained on, and sources, where they come from."""

# Shapes: L tokens of a row.

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

MIN_ROW_LENGTH = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One sequence of tokens."""

    ids_L: Tensor
    """Token ids, int32."""
    counts_L: Tensor
    """Which of them the loss counts, bool; the others are context. Never the first, which nothing predicts."""

    @classmethod
    def counted_from(cls, ids_L: Tensor, start: int) -> "Row":
        """A row that counts from its token `start` on."""
        return cls(ids_L=ids_L, counts_L=torch.arange(len(ids_L)) >= max(1, start))

    @classmethod
    def of_conversation(cls, ids: Sequence[int], answers: Iterable[tuple[int, int]], loss_on: str) -> "Row":
        """A conversation that counts whole, or only in its answers.

        Args:
            ids: its tokens.
            answers: start and stop of each answer.
            loss_on: "all" or "answers".
        """
        ids_L = torch.tensor(ids, dtype=torch.int32)
        if loss_on == "all":
            return cls.counted_from(ids_L, 1)
        counts_L = torch.zeros(len(ids_L), dtype=torch.bool)
        for start, stop in answers:
            counts_L[max(1, start) : stop] = True
        return cls(ids_L=ids_L, counts_L=counts_L)


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """What was read of all text together, or of one set of conversations."""

    name: str
    rows: list[Row]
    complete: bool
    """Whether its share of the tokens was more than there is."""
    rows_are_whole: bool = False
    """Whether each row is a conversation of its own; False: text that is cut into rows."""
    num_beyond: int = 0
    """Conversations that were left out because their first answer begins after the length of a row."""
    num_short: int = 0
    """Conversations that were left out because they are too short, or have no answer at all."""
    num_bad: int = 0
    """Records that cannot be used, and were left out."""
    first_bad: str = ""
    """What was wrong with the first of those."""

    def __str__(self) -> str:
        parts = [f"{self.name}: {num_tokens(self.rows):,} tokens"]
        if not self.complete:
            parts.append("its share of what is to be read")
        if self.num_beyond:
            parts.append(f"{self.num_beyond:,} conversations left out, whose answers begin after a row's length")
        if self.num_short:
            parts.append(f"{self.num_short:,} conversations left out, too short or without an answer")
        if self.num_bad:
            parts.append(f"bad records left out: {self.num_bad:,}, the first: {self.first_bad}")
        return ", ".join(parts)


def num_tokens(rows: Sequence[Row]) -> int:
    """Tokens of rows, those that do not count too."""
    return sum(len(row.ids_L) for row in rows)


def conversation_source(name: str, conversations: Iterable[Row], longest: int | None, max_tokens: int) -> Source:
    """A source with a row for each conversation, at most about max_tokens, read as they are needed.

    Args:
        name: of the source.
        conversations: rows of any length.
        longest: tokens that a row is cut off at; None: they stay whole.
        max_tokens: of all rows.
    """
    rows: list[Row] = []
    num_beyond = num_short = 0
    complete = True
    for whole in conversations:
        if max_tokens <= 0:
            complete = False
            break
        row = Row(ids_L=whole.ids_L[:longest], counts_L=whole.counts_L[:longest])
        if len(whole.ids_L) < MIN_ROW_LENGTH or not whole.counts_L.any():
            num_short += 1
        elif len(row.ids_L) < MIN_ROW_LENGTH or not row.counts_L.any():
            num_beyond += 1
        else:
            rows.append(row)
            max_tokens -= len(row.ids_L)
    return Source(
        name=name, rows=rows, complete=complete, rows_are_whole=True, num_beyond=num_beyond, num_short=num_short
    )
