"""The product and tanh that kernels share, in Triton's interpreter.

Catches: bit patterns of bfloat16 multiplied as integers, a tanh that overflows, or cancels near 0.
"""

import pytest
import torch

from tests.kernels.compare import assert_close, random


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_dot_against_float64(dtype: torch.dtype) -> None:
    from tests.kernels.interpreter import common_kernels

    a, b = random(16, 32, dtype=dtype), random(32, 16, dtype=dtype, seed=1)
    found = torch.full((16, 16), float("nan"))
    common_kernels.dot_kernel[(1,)](a, b, found, M=16, K=32, N=16)
    assert_close(found, 1 + a.double() @ b.double(), torch.float32)


def test_tanh() -> None:
    from tests.kernels.interpreter import common_kernels

    x = torch.cat([torch.linspace(-4, 4, 509), torch.logspace(-6, 0, 512), torch.tensor([-1e4, 1e4, 0.0])])
    found = torch.full_like(x, float("nan"))
    common_kernels.tanh_kernel[(1,)](x, found, N=1024)
    torch.testing.assert_close(found.double(), x.double().tanh(), rtol=1e-6, atol=0)


def test_the_interpreter_still_needs_the_wider_product() -> None:
    """Once this fails, Triton multiplies bfloat16 in its interpreter, and `dot` needs no case for it."""
    from tests.kernels.interpreter import common_kernels

    a, b = random(16, 32, dtype=torch.bfloat16), random(32, 16, dtype=torch.bfloat16, seed=1)
    found = torch.zeros(16, 16)
    common_kernels.plain_dot_kernel[(1,)](a, b, found, M=16, K=32, N=16)
    assert not torch.allclose(found.double(), a.double() @ b.double(), rtol=0.1, atol=0.1)
