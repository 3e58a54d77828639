"""What the kernels share: a matrix product that Triton's interpreter gets right, and element-wise functions."""

import os

import triton
import triton.language as tl

INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")
"""Whether kernels run in Triton's interpreter: decided, as by Triton, when a kernel is decorated."""


@triton.jit
def dot(a, b, accumulator):  # type: ignore[no-untyped-def]
    """accumulator + a b, in float32; factors in float32 are not rounded to TF32.

    Triton's interpreter multiplies the bit patterns of bfloat16 as if they were integers (triton #11584), and knows no
    float8: there, the factors are widened first, which changes no value.
    """
    if INTERPRETED:
        return accumulator + tl.dot(a.to(tl.float32), b.to(tl.float32), input_precision="ieee")
    else:
        return tl.dot(a, b, accumulator, input_precision="ieee")


@triton.jit
def tanh(x):  # type: ignore[no-untyped-def]
    """tanh x, without libdevice, which the interpreter and ROCm do not have: error below 2e-7, everywhere."""
    return 2.0 * tl.sigmoid(2.0 * x) - 1.0
