"""Rows in batches of about equal tokens. A step's batch is a function of the step alone, so that a resumed run sees the
same, and a batch has the same rows in every epoch, so that what the target says of it is computed once."""

# Shapes: B sequences, L tokens of the longest row, S = L - 1 tokens that the target sees.

import functools
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from vllm_mtp.training.data.rows import Row, too_few_rows

_MAX_HELD_OUT_ROWS = 32
_NUM_KEPT = 4


class Batch(NamedTuple):
    """Rows padded on the right to the longest of them."""

    ids_BL: Tensor
    text_BS: Tensor
    """Positions whose next token is in the row, and not padding."""
    mask_BS: Tensor
    """Those of them that count: the next token is not mere context."""

    @property
    def num_tokens(self) -> int:
        """Positions that count."""
        return int(self.mask_BS.sum())

    def rows(self, part: slice) -> "Batch":
        """Some of its rows, as they are padded here."""
        return Batch(*(tensor[part] for tensor in self))

    def padded(self, num_tokens: int) -> "Batch":
        """With so many more tokens of padding on the right."""
        return Batch(*(functional.pad(tensor, (0, num_tokens)) for tensor in self))

    def parts(self, num_parts: int) -> list[slice]:
        """Its rows in parts as equal as can be, fewer where there are fewer rows."""
        num_parts = min(num_parts, len(self.ids_BL))
        ends = [len(self.ids_BL) * part // num_parts for part in range(num_parts + 1)]
        return [slice(*ends[part : part + 2]) for part in range(num_parts)]


class Batches:
    """Training batches and held-out batches of one or several sources.

    Rows of one source and of like length share a batch, at random; every so many rows one is held out. Of a
    conversation that has several rows it is the last one, and the others are left out.

    Args:
        sources: rows of each source (`read_sources`).
        tokens_per_batch: most tokens of a batch, padding included.
        seed: decides the order of batches; which rows share one does not depend on it.

    Raises:
        ValueError: if a source has no row for training besides one held out.
    """

    def __init__(self, sources: Sequence[Sequence[Row]], tokens_per_batch: int, seed: int) -> None:
        self._training: list[list[Row]] = []
        self._held_out: list[list[Row]] = []
        self._tokens_per_batch = tokens_per_batch
        for rows in sources:
            conversations = _conversations(rows)
            if len(conversations) < 2:
                raise too_few_rows(len(conversations))
            held_out = _held_out_places(len(conversations))
            training = [row for i, turns in enumerate(conversations) if i not in held_out for row in turns]
            self._training += _grouped(training, tokens_per_batch)
            self._held_out.append([conversations[index][-1] for index in sorted(held_out)])
        self._seed = seed
        # Asked for by the thread that reads ahead, then by the step, and again for its states.
        self._made = functools.lru_cache(_NUM_KEPT)(lambda index: _batch(self._training[index]))

    def __len__(self) -> int:
        return len(self._training)

    @property
    def num_tokens(self) -> int:
        """Tokens of all training rows."""
        return sum(len(row.ids_L) for rows in self._training for row in rows)

    def share_with_fewer_rows(self, num_rows: int) -> float:
        """Of the training batches."""
        return sum(len(rows) < num_rows for rows in self._training) / len(self)

    def num_copies(self) -> int:
        """Held-out rows that are trained on too, since the data has them several times."""
        times = Counter(_tokens_of(row) for rows in self._held_out for row in rows)
        known = {tokens for rows in self._training for row in rows if (tokens := _tokens_of(row)) in times}
        return sum(times[tokens] for tokens in known)

    def tokens_seen(self, num_steps: int) -> int:
        """Positions that count in the first num_steps steps."""
        sizes = [self[index].num_tokens for index in range(len(self))]
        epochs, rest = divmod(num_steps, len(self))
        last = range(num_steps - rest, num_steps)
        return epochs * sum(sizes) + sum(sizes[self.index(step)] for step in last)

    def index(self, step: int) -> int:
        """Which batch a step takes; every epoch has its own order of the same batches."""
        epoch, place = divmod(step, len(self))
        return int(self._order(epoch)[place])

    def visited(self, num_steps: int) -> Sequence[int]:
        """Batches that the first num_steps steps take, ascending."""
        return sorted(self._order(0)[:num_steps].tolist())

    def _order(self, epoch: int) -> Tensor:
        generator = torch.Generator().manual_seed(self._seed * 100_003 + epoch)
        return torch.randperm(len(self), generator=generator)

    def __getitem__(self, index: int) -> Batch:
        return self._made(index)

    def held_out(self, max_tokens: int | None = None) -> list[Batch]:
        """The held-out rows; with max_tokens, evenly spaced ones of about as many tokens, and one of each source."""
        num_tokens = sum(len(row.ids_L) - 1 for rows in self._held_out for row in rows)
        every = 1 if max_tokens is None else max(1, -(-num_tokens // max(1, max_tokens)))
        kept = (rows[every // 2 :: every] or rows[:1] for rows in self._held_out)
        groups = (_grouped(rows, self._tokens_per_batch) for rows in kept)
        return [_batch(group) for source in groups for group in source]


def _tokens_of(row: Row) -> bytes:
    return row.ids_L.numpy().tobytes()


def _conversations(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows of a source by conversation: those of other turns have the text of a row in them too."""
    found: list[list[Row]] = []
    for row in rows:
        if found and row.conversation is not None and found[-1][0].conversation == row.conversation:
            found[-1].append(row)
        else:
            found.append([row])
    return found


def _held_out_places(num_rows: int) -> set[int]:
    """Which rows of a source are held out: the middle of each stretch, or the last row of very little text."""
    every = max(20, -(-num_rows // _MAX_HELD_OUT_ROWS))
    places = set(range(every // 2, num_rows, every))
    return places if places else {num_rows - 1}


def _grouped(rows: list[Row], tokens_per_batch: int) -> list[list[Row]]:
    """Rows in a random order, those of like length together."""
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0)).tolist()
    groups: list[list[Row]] = []
    for row in sorted((rows[index] for index in order), key=lambda row: len(row.ids_L)):
        # The newest row is the longest: it decides the padded size.
        if groups and (len(groups[-1]) + 1) * (len(row.ids_L) - 1) <= tokens_per_batch:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def _batch(rows: Sequence[Row]) -> Batch:
    longest = max(len(row.ids_L) for row in rows)
    ids_BL = torch.zeros(len(rows), longest, dtype=torch.int64)
    text_BS = torch.zeros(len(rows), longest - 1, dtype=torch.bool)
    mask_BS = torch.zeros_like(text_BS)
    for number, row in enumerate(rows):
        ids_BL[number, : len(row.ids_L)] = row.ids_L
        text_BS[number, : len(row.ids_L) - 1] = True
        mask_BS[number, : len(row.ids_L) - 1] = row.counts_L[1:]
    return Batch(ids_BL, text_BS, mask_BS)
