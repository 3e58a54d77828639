"""A handful of shapes for the batches of a run, so that a compiler, an allocator and a tuner meet few.

A batch is padded to one of them: further rows and further tokens, which nothing that counts attends to, and further
places without weight. What is scored, and where, stays that of the batch as it was.
"""

# Shapes: B rows, L tokens, S = L - 1 that the target sees, T = S - K, K draft steps, D hidden size, N places.

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from torch import Tensor
from torch.nn import functional

from vllm_mtp.training.data.batches import Batch, Batches
from vllm_mtp.training.frozen.reading import BatchStates
from vllm_mtp.training.loss.objective import Places, teacher_rows


class Shape(NamedTuple):
    """Sizes of a batch, or of some rows of one."""

    num_rows: int
    num_tokens: int
    """That the target sees."""
    num_places: int
    """Teacher positions that count."""

    @classmethod
    def of(cls, batch: Batch) -> "Shape":
        num_rows, num_tokens = batch.mask_BS.shape
        return cls(num_rows, num_tokens, len(teacher_rows(batch.mask_BS)))

    @property
    def num_positions(self) -> int:
        """Of the module."""
        return self.num_rows * self.num_tokens

    @property
    def work(self) -> int:
        """Positions of the module, and of the loss."""
        return self.num_positions + self.num_places

    def holds(self, other: "Shape") -> bool:
        return all(size >= size_of_other for size, size_of_other in zip(self, other, strict=True))

    def with_room_for(self, other: "Shape") -> "Shape":
        return Shape(*map(max, self, other))


def shapes_of(batches: Batches, num_parts: int) -> Iterator[Shape]:
    """Those of the parts that training computes its batches in."""
    for index in range(len(batches)):
        batch = batches[index]
        yield from (Shape.of(batch.rows(part)) for part in batch.parts(num_parts))


class _Group(NamedTuple):
    """Batches that share a shape."""

    shape: Shape
    num_batches: int

    def joined(self, other: "_Group") -> "_Group":
        return _Group(self.shape.with_room_for(other.shape), self.num_batches + other.num_batches)

    @property
    def work(self) -> int:
        return self.shape.work * self.num_batches


def fixed_shapes(of_batches: Iterable[Shape], most: int) -> list[Shape]:
    """At most so many shapes that each batch fits in one, those next in length joined where that adds least."""
    groups = [_Group(shape, 1) for shape in sorted(of_batches, key=lambda shape: (shape.num_tokens, shape))]
    groups = _same_length_joined(groups)
    while len(groups) > most:
        added = [one.joined(other).work - one.work - other.work for one, other in pairwise(groups)]
        place = added.index(min(added))
        groups[place : place + 2] = [groups[place].joined(groups[place + 1])]
    return [group.shape for group in groups]


def _same_length_joined(groups: Sequence[_Group]) -> list[_Group]:
    joined: list[_Group] = []
    for group in groups:
        if joined and joined[-1].shape.num_tokens == group.shape.num_tokens:
            joined[-1] = joined[-1].joined(group)
        else:
            joined.append(group)
    return joined


def smallest(shapes: Iterable[Shape], shape: Shape) -> Shape:
    """The one of least work that holds a batch's."""
    return min((one for one in shapes if one.holds(shape)), key=lambda one: one.work)


def padded(ids_BL: Tensor, states: BatchStates, where: Places, shape: Shape) -> tuple[Tensor, BatchStates, Places]:
    """A batch's tokens, the target's side of it and the places that it is scored at, at a shape that holds it."""
    num_rows, num_tokens, _ = states.hidden_BSD.shape
    rows, tokens = shape.num_rows - num_rows, shape.num_tokens - num_tokens
    places = shape.num_places - len(where.rows_N)
    teacher = states.teacher
    if teacher is not None:
        teacher = teacher._replace(
            mean_ND=functional.pad(teacher.mean_ND, (0, 0, 0, places)),
            constant_N=functional.pad(teacher.constant_N, (0, places)),
            top_N=functional.pad(teacher.top_N, (0, places)),
        )
    return (
        functional.pad(ids_BL, (0, tokens, 0, rows)),
        BatchStates(functional.pad(states.hidden_BSD, (0, 0, 0, tokens, 0, rows)), teacher),
        _moved(where, num_tokens, shape, places),
    )


def _moved(where: Places, num_tokens: int, shape: Shape, num_added: int) -> Places:
    """The same places in wider rows, and some more that do not count."""
    num_steps = len(where.index_KN)
    return Places(
        functional.pad(_in_wider_rows(where.rows_N, num_tokens, shape.num_tokens), (0, num_added)),
        functional.pad(
            _in_wider_rows(where.index_KN, num_tokens - num_steps, shape.num_tokens - num_steps), (0, num_added)
        ),
        functional.pad(where.exists_KN, (0, num_added)),
        None if where.labels_N is None else functional.pad(where.labels_N, (0, num_added)),
    )


def _in_wider_rows(index: Tensor, width: int, wider: int) -> Tensor:
    return index // width * wider + index % width
