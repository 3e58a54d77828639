"""Several processes of one run, as `torchrun` starts them: each computes a share of every batch's rows.

Which rows a step sees does not depend on how many there are. Gradients are added up before the update, which every
process then makes by itself, alike. The first one writes, and says what is to be said.
"""

import logging
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor, nn

from vllm_mtp.common.errors import InputError
from vllm_mtp.training.transfer import on_the_way

logger = logging.getLogger(__name__)

_LONGEST_STEP = timedelta(hours=2)
"""In which all must add up what they have: whoever waits longer waits for a network or a process that hangs."""
_LONGEST_WAIT = timedelta(days=7)
"""For those who have nothing to do while another lets the target run over the data."""
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranks:
    """This process among those of its run; by default the only one."""

    rank: int = 0
    size: int = 1
    parent: int | None = None
    """Process id of the `torchrun` that started this one; None: something else did."""
    patient: "torch.distributed.ProcessGroup | None" = None
    """All of them, for what may take _LONGEST_WAIT."""

    @classmethod
    def join(cls, device: str) -> "Ranks":
        """Waits for the others of this run, where there are any, and takes the GPU that is this process's own.

        Args:
            device: "auto", "cpu" or "cuda".
        """
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1:
            return cls()
        on_gpu = device != "cpu" and torch.cuda.is_available()
        backend, own = "gloo", None
        if on_gpu:
            gpu, backend = _share_of_gpus(torch.cuda.device_count(), size)
            torch.cuda.set_device(gpu)
            own = torch.device("cuda", gpu) if backend == "nccl" else None
        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group(backend, timeout=_LONGEST_STEP, device_id=own)
        parent = os.getppid() if torch.distributed.is_torchelastic_launched() else None
        patient = torch.distributed.new_group(timeout=_LONGEST_WAIT)
        return cls(rank=torch.distributed.get_rank(), size=size, parent=parent, patient=patient)

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    @property
    def is_left_alone(self) -> bool:
        """Whether the `torchrun` that started this process is gone: killed outright, it takes nobody along."""
        return self.parent is not None and os.getppid() != self.parent

    def mine(self, shares: Sequence[T]) -> list[T]:
        """This process's part of what is shared out."""
        return list(shares[self.rank :: self.size])

    def add(self, tensor: Tensor) -> None:
        """Adds up what every process has, in place."""
        if self.size > 1:
            torch.distributed.all_reduce(tensor)

    def add_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Adds up every process's gradients; one without any has zeros."""
        if self.size == 1:
            return
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            torch.distributed.all_reduce(parameter.grad)

    def any(self, value: bool, device: torch.device) -> bool:
        """Whether it is so in any process."""
        return value if self.size == 1 else bool(_any_of_all(value, device))

    def wait(self) -> None:
        """Until every process is here, whatever it does before."""
        if self.size > 1:
            torch.distributed.barrier(self.patient)

    def check_same(self, what: object) -> None:
        """Refuses processes that were given other runs.

        Raises:
            InputError: where data, settings, the chosen dtype or a checkpoint are not the same everywhere.
        """
        if self.size == 1:
            return
        found: list[object] = [None] * self.size
        torch.distributed.all_gather_object(found, what, self.patient)
        if any(other != found[0] for other in found):
            raise InputError(
                "output",
                f"expected one run in all {self.size} processes, got different ones: the same command, data and "
                "versions on every machine, an output that all of them see, and a dtype",
            )


def _any_of_all(value: bool, device: torch.device) -> Tensor:
    found = torch.full((), int(value), device=device)
    torch.distributed.all_reduce(found, torch.distributed.ReduceOp.MAX)
    return found


class AnyByNow:
    """`Ranks.any` for every step, where the device is not to be waited for: whether it was so when asked before;
    on a CPU, which nothing waits for, or in the end: whether it is so now."""

    def __init__(self, ranks: Ranks, device: torch.device) -> None:
        self._ranks, self._device = ranks, device
        self._told: Callable[[], dict[str, Tensor]] | None = None

    def __call__(self, value: bool, *, is_end: bool) -> bool:
        if self._ranks.size == 1 or self._device.type == "cpu":
            return self._ranks.any(value, self._device)
        before = self._told is not None and bool(self._told()["any"])
        self._told = on_the_way({"any": _any_of_all(value, self._device)})
        return before or (is_end and bool(self._told()["any"]))


def _share_of_gpus(num_gpus: int, size: int) -> tuple[int, str]:
    """The GPU of this process, and how processes speak to each other.

    Args:
        num_gpus: of this machine.
        size: number of processes of the run.

    Raises:
        InputError: if a machine of several has fewer GPUs than processes.
    """
    own = int(os.environ.get("LOCAL_RANK", "0"))
    num_here = int(os.environ.get("LOCAL_WORLD_SIZE", "0"))  # 0: started by something that does not say it
    if num_here <= num_gpus:
        return own % num_gpus, "nccl"  # of one that shows each process its own GPU alone, that
    if num_here < size:
        raise InputError(
            "device",
            f"expected a GPU for each process, found {num_gpus} on this machine for {num_here} processes: give "
            f"torchrun --nproc-per-node {num_gpus}, and train --accumulate for larger batches",
        )
    if own == 0:
        logger.warning(
            "%d processes share %d GPU(s), and speak by gloo, since nccl wants a GPU for each: to try it out, one "
            "process a GPU is faster",
            num_here,
            num_gpus,
        )
    return own % num_gpus, "gloo"
