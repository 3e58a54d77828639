"""What host and device hand to one another."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

from vllm_mtp.common.errors import is_out_of_memory


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor on a device. From host to GPU nothing waits: it goes there from pinned memory, in the order of what the
    GPU was given before."""
    from_host = tensor.device.type == "cpu"
    if from_host and device.type == "cuda":
        tensor = pinned(tensor)
    return tensor.to(device, non_blocking=from_host)


def begins_on(device: torch.device) -> Callable[[], None]:
    """What a thread that pins memory or waits for events begins with: CUDA has the first GPU as that of a new one."""
    if device.type != "cuda":
        return lambda: None
    return partial(torch.cuda.set_device, torch.cuda.current_device() if device.index is None else device.index)


def pinned(tensor: Tensor) -> Tensor:
    """A copy in pinned memory of the host.

    Raises:
        MemoryError: where there is too little of it; torch's error is that of a GPU's memory.
    """
    with _pinning(tensor.nbytes):
        return tensor.pin_memory()


def on_the_way(tensors: Mapping[str, Tensor]) -> Callable[[], dict[str, Tensor]]:
    """Begins to copy a device's tensors to the host, behind what the device was asked before. Nothing waits.

    Returns:
        What waits for the copies, in any thread.

    Raises:
        MemoryError: where there is too little memory that can be pinned.
    """
    device = next(iter(tensors.values())).device
    if device.type != "cuda":
        return lambda: {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    with _pinning(sum(tensor.nbytes for tensor in tensors.values())):
        copies = {name: torch.empty(one.shape, dtype=one.dtype, pin_memory=True) for name, one in tensors.items()}
    for name, copy in copies.items():
        copy.copy_(tensors[name], non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record(torch.cuda.current_stream(device))

    def waited() -> dict[str, Tensor]:
        arrived.synchronize()
        return copies

    return waited


@contextmanager
def _pinning(num_bytes: int) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise MemoryError(f"{num_bytes:,} bytes of the host's memory cannot be pinned") from error
