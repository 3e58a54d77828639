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
        return cls.counted_in(ids_L, ((start, len(ids_L)),))

    @classmethod
    def counted_in(cls, ids_L: Tensor, answers: Iterable[tuple[int, int]]) -> "Row":
        """A row that counts from start to stop of each answer."""
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
    num_left_out: int = 0
    """Conversations that are too short, or have no answer within the length of a row."""
    num_bad: int = 0
    """Records that cannot be used."""
    first_bad: str = ""
    """What was wrong with the first of those."""

    def __str__(self) -> str:
        parts = [f"{self.name}: {num_tokens(self.rows):,} tokens"]
        if not self.complete:
            parts.append("its share of what is to be read")
        if self.num_left_out:
            parts.append(f"{self.num_left_out:,} conversations left out, without an answer within a row's length")
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
    num_left_out = 0
    for row in conversations:
        if max_tokens <= 0:
            return Source(name=name, rows=rows, complete=False, num_left_out=num_left_out)
        row = Row(ids_L=row.ids_L[:longest], counts_L=row.counts_L[:longest])
        if len(row.ids_L) >= MIN_ROW_LENGTH and row.counts_L.any():
            rows.append(row)
            max_tokens -= len(row.ids_L)
        else:
            num_left_out += 1
    return Source(name=name, rows=rows, complete=True, num_left_out=num_left_out)
