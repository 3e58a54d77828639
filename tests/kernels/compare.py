"""How the tests of the kernels compare: norm-wise with float64, at tolerances that are the dtype's rounding."""

import torch
from torch import Tensor

# Twice the unit roundoff of the dtype for its inputs' products, and more for what the interpreter adds: it truncates
# where a GPU rounds to the nearest bfloat16.
TOLERANCE = {torch.float32: 3e-6, torch.float16: 1.5e-3, torch.bfloat16: 1.2e-2}


def error(found: Tensor, expected: Tensor) -> float:
    """|found - expected| / |expected|, of vectors of all elements, in float64; NaN where there is one."""
    difference = found.double().flatten() - expected.double().flatten()
    return float(difference.norm() / expected.double().norm().clamp(min=1e-30))


def assert_close(found: Tensor, expected: Tensor, dtype: torch.dtype, *, factor: float = 1.0) -> None:
    """Fails on another shape, and on an error above the tolerance of the dtype that was computed in."""
    assert found.shape == expected.shape, f"expected {tuple(expected.shape)}, got {tuple(found.shape)}"
    size = error(found, expected)
    assert size <= factor * TOLERANCE[dtype], f"error {size:.2e}, tolerance {factor * TOLERANCE[dtype]:.2e}"


def random(*shape: int, dtype: torch.dtype = torch.float32, scale: float = 1.0, seed: int = 0) -> Tensor:
    """Normal numbers, representable in the dtype."""
    return (scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))).to(dtype)
