"""What the benchmark of the kernels measures: a case is one shape of one kernel, with everyone who can do it."""

from collections.abc import Callable, Mapping
from typing import NamedTuple, ParamSpec, TypeVar

import torch

Run = Callable[[], object]
P = ParamSpec("P")
R = TypeVar("R")


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """torch.compile for the shapes of one case, all of it, or an error.

    What was compiled for other cases is forgotten: once there are eight versions of a function, torch would run a ninth
    shape eager without a word.
    """
    torch._dynamo.reset()
    return torch.compile(function, dynamic=False, fullgraph=True)


class KernelCase(NamedTuple):
    """One shape of one kernel."""

    kernel: str
    shape: Mapping[str, int]
    floor_flops: int
    """Multiplications and additions that no way of computing it can do without."""
    floor_bytes: int
    """Memory that any way must read and write."""
    providers: Callable[[torch.device], Mapping[str, Run | str]]
    """Makes inputs, and gives by name what computes it, or why that cannot run here; the others are compared with
    "eager"."""
    in_graph: bool = False
    """Measure it replayed from a CUDA graph too, as serving runs it."""
