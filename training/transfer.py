"""What host and device hand to one another."""

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


def pinned(tensor: Tensor) -> Tensor:
    """A copy in pinned memory of the host.

    Raises:
        MemoryError: where there is too little of it; torch's error is that of a GPU's memory.
    """
    try:
        return tensor.pin_memory()
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise MemoryError(f"{tensor.nbytes:,} bytes of the host's memory cannot be pinned") from error
