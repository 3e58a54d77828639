"""What is computed in: float64 where the input is float64, float32 for all narrower ones."""

import torch
from torch import Tensor


def wide_dtype(x: Tensor) -> torch.dtype:
    """The dtype that sums over x are made in."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def wide(x: Tensor) -> Tensor:
    """x in that dtype."""
    return x.to(wide_dtype(x))
