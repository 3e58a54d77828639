"""What a part of a step asks of its device, counted as torch hands it on: the same on every machine, unlike times."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

_VIEWS = {
    "view", "_unsafe_view", "expand", "permute", "transpose", "slice", "select", "split", "unbind", "unsqueeze",
    "squeeze", "detach", "alias", "t",
}  # fmt: skip
"""Operators that compute nothing."""


@dataclass(kw_only=True, slots=True)
class Counts:
    """Of everything between two points."""

    operators: int = 0
    """On a GPU each is a kernel, or several."""
    written_bytes: int = 0
    """Of their results."""


class _Counting(TorchDispatchMode):
    def __init__(self, counts: Counts) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts = counts

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = operator(*args, **(kwargs or {}))
        if operator._schema.name.removeprefix("aten::") not in _VIEWS:
            self.counts.operators += 1
            tensors = (value for value in tree_iter(result) if isinstance(value, Tensor))
            self.counts.written_bytes += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return result


@contextmanager
def counted() -> Iterator[Counts]:
    """Counts what torch does meanwhile."""
    counts = Counts()
    with _Counting(counts):
        yield counts
