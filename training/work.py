"""The same work on many tasks: in this process, or by workers on a Ray cluster (cluster.py)."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, TypeVar

import torch

from vllm_mtp.training.cluster_options import ClusterOptions

T = TypeVar("T")
R = TypeVar("R")
T_contra = TypeVar("T_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)


class Work(Protocol[T_contra, R_co]):
    """What is done with every task. Workers on other machines get it by pickle."""

    def opened(self) -> AbstractContextManager[Callable[[T_contra], R_co]]:
        """Starts what all tasks of a process need, such as an engine; gives what does one of them."""


class Workers(Protocol):
    """Those who do it."""

    @property
    def has_gpus(self) -> bool: ...

    def results(self, work: Work[T, R], tasks: Mapping[str, T]) -> Iterator[tuple[str, R]]:
        """Does the work on every task, which comes back under its name, once, in any order.

        Raises:
            ValueError: if it cannot be done.
        """


class Here:
    """This process, one task after another."""

    @property
    def has_gpus(self) -> bool:
        return torch.cuda.is_available()

    def results(self, work: Work[T, R], tasks: Mapping[str, T]) -> Iterator[tuple[str, R]]:
        with work.opened() as do:
            for name, task in tasks.items():
                yield name, do(task)


def check_workers(options: ClusterOptions) -> None:
    """Refuses a cluster where there is no Ray, before anything is read.

    Raises:
        InputError: saying how to get it.
    """
    if options.ray is not None:
        from vllm_mtp.training.cluster import import_ray

        import_ray()


@contextmanager
def workers(options: ClusterOptions, num_gpus: int | None, check: Callable[[], None]) -> Iterator[Workers]:
    """The workers that the options name, for as long as they are needed.

    Args:
        options: where; no cluster: this process.
        num_gpus: that one worker's engine takes where there are any; None: one.
        check: raises what is wrong with a machine; run on every node that a worker fits on.

    Raises:
        InputError: if there is no such cluster, no room on it, or a node that fails the check.
    """
    if options.ray is None:
        yield Here()
        return
    from vllm_mtp.training.cluster import on_cluster

    with on_cluster(options, num_gpus or 1, check) as found:
        yield found
