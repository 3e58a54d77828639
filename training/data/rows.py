"""Rows, what a drafter is trained on, and sources, where they come from."""

# Shapes: L tokens of a row.

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vllm_mtp.common.errors import InputError

MIN_ROW_LENGTH = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One sequence of tokens."""

    ids_L: Tensor
    """Token ids, int32."""
    counts_L: Tensor
    """Which of them the loss counts, bool; the others are context. Never the first, which nothing predicts."""
    conversation: int | None = None
    """Rows with the same number, one behind the other, are turns of one conversation; None: a row of its own."""

    @classmethod
    def counted_from(cls, ids_L: Tensor, start: int) -> "Row":
        """A row that counts from its token `start` on."""
        return cls(ids_L=ids_L, counts_L=torch.arange(len(ids_L)) >= max(1, start))

    @classmethod
    def of_conversation(
        cls, ids: Sequence[int], answers: Iterable[tuple[int, int]], loss_on: str, conversation: int | None = None
    ) -> "Row":
        """A conversation that counts whole, or only in its answers.

        Args:
            ids: its tokens.
            answers: start and stop of each answer.
            loss_on: "all" or "answers".
            conversation: its number, where it may have several rows.
        """
        ids_L = torch.tensor(ids, dtype=torch.int32)
        if loss_on == "all":
            return replace(cls.counted_from(ids_L, 1), conversation=conversation)
        counts_L = torch.zeros(len(ids_L), dtype=torch.bool)
        for start, stop in answers:
            counts_L[max(1, start) : stop] = True
        return cls(ids_L=ids_L, counts_L=counts_L, conversation=conversation)


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """What was read of all text together, or of one set of conversations."""

    name: str
    rows: list[Row]
    complete: bool
    """Whether its share of the tokens was more than there is."""
    num_unread: int = 0
    """Files that come after those that gave its share."""
    num_left_out: int = 0
    """Conversations that have an answer, but none within the length of a row."""
    num_too_short: int = 0
    """Conversations of fewer than 16 tokens, or without anything that counts."""
    num_cut: int = 0
    """Conversations that are longer than a row, and end with it."""
    num_cut_tokens: int = 0
    """Tokens of them behind the row's end."""
    num_bad: int = 0
    """Records that cannot be used, and were left out."""
    first_bad: str = ""
    """What was wrong with the first of those."""
    note: str = ""
    """What else is to be said of it."""

    def check_enough(self) -> None:
        """Refuses a source that has no row for training besides one held out.

        Raises:
            InputError: saying what helps.
        """
        if len(self.rows) < 2:
            raise too_few_rows(len(self.rows), num_left_out=self.num_left_out, found=f" ({self})")

    def __str__(self) -> str:
        parts = [f"{self.name}: {num_tokens(self.rows):,} tokens"]
        if not self.complete:
            parts.append("its share of what is to be read")
        if self.num_unread:
            parts.append(f"{self.num_unread:,} further files not read")
        if self.num_cut:
            left = f"{self.num_cut_tokens:,} tokens left out, which a larger sequence_length reads"
            parts.append(f"{self.num_cut:,} conversations cut at the end of a row ({left})")
        if self.num_left_out:
            parts.append(f"{self.num_left_out:,} conversations left out, without an answer within a row's length")
        if self.num_too_short:
            parts.append(f"{self.num_too_short:,} conversations left out, shorter than {MIN_ROW_LENGTH} tokens")
        if self.num_bad:
            parts.append(f"bad records left out: {self.num_bad:,}, the first: {self.first_bad}")
        if self.note:
            parts.append(self.note)
        return ", ".join(parts)


def too_few_rows(num_rows: int, *, num_left_out: int = 0, found: str = "") -> InputError:
    """The error for a source that has no row for training besides one held out.

    Args:
        num_rows: that it has.
        num_left_out: conversations whose answers are all behind a row's end.
        found: what else was found in it.
    """
    more = "Give more data; of text, a smaller sequence_length helps."
    help = "Give a larger sequence_length." if num_left_out else more
    return InputError(
        "data", f"expected at least two rows (one to train on, one held out), got {num_rows}{found}. {help}"
    )


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
    num_left_out = num_too_short = num_cut = num_cut_tokens = 0
    complete = True
    for whole in conversations:
        if max_tokens <= 0:
            complete = False
            break
        row = replace(whole, ids_L=whole.ids_L[:longest], counts_L=whole.counts_L[:longest])
        if len(whole.ids_L) < MIN_ROW_LENGTH or not whole.counts_L.any():
            num_too_short += 1
        elif len(row.ids_L) < MIN_ROW_LENGTH or not row.counts_L.any():
            num_left_out += 1
        else:
            rows.append(row)
            max_tokens -= len(row.ids_L)
            num_cut += len(row.ids_L) < len(whole.ids_L)
            num_cut_tokens += len(whole.ids_L) - len(row.ids_L)
    return Source(
        name=name,
        rows=rows,
        complete=complete,
        num_cut=num_cut,
        num_cut_tokens=num_cut_tokens,
        num_left_out=num_left_out,
        num_too_short=num_too_short,
    )
