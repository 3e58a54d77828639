"""What host and device hand to one another."""

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor on a device. From host to GPU nothing waits: it goes there from pinned memory, in the order of what the
    GPU was given before."""
    from_host = tensor.device.type == "cpu"
    if from_host and device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=from_host)
