"""What the kernels share: a matrix product that Triton's interpreter gets right, and element-wise functions."""

import os

import triton
import triton.language as tl

INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")
"""Whether kernels run in Triton's interpreter: decided, as by Triton, when a kernel is decorated."""


@triton.jit
def dot(a, b, accumulator):  # type: ignore[no-untyped-def]
    """accumulator + a b, in float32; factors in float32 are not rounded to TF32.

    Hopper's tensor cores add up products of float8 in some 14 bits, and Triton leaves them the whole sum unless told
    otherwise: here, the 32 products of one instruction, which is then added to the accumulator outside. Told 0, Triton
    3.9 takes float16's instructions, of half the speed.

    Triton's interpreter multiplies the bit patterns of bfloat16 as if they were integers (triton #11584), and knows no
    float8: there, the factors are widened first, which changes no value.
    """
    if INTERPRETED:
        return accumulator + tl.dot(a.to(tl.float32), b.to(tl.float32), input_precision="ieee")
    else:
        return tl.dot(a, b, accumulator, input_precision="ieee", max_num_imprecise_acc=32)


@triton.jit
def tanh(x):  # type: ignore[no-untyped-def]
    """tanh x, without libdevice, which the interpreter and ROCm do not have: relative error below 1e-6, everywhere.

    2 sigmoid(2x) - 1 cancels near 0; there it is the series up to x^9.
    """
    s = x * x
    near = x * (1.0 + s * (-1 / 3 + s * (2 / 15 + s * (-17 / 315 + s * (62 / 2835)))))
    return tl.where(tl.abs(x) < 0.3, near, 2.0 * tl.sigmoid(2.0 * x) - 1.0)


@triton.jit
def or_zero(x):  # type: ignore[no-untyped-def]
    """x, and 0 for -inf, which cannot be subtracted from itself."""
    return tl.where(x == float("-inf"), 0.0, x)
