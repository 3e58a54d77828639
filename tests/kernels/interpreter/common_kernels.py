"""Kernels that do nothing but call what kernels/common/triton_common.py has."""

import triton
import triton.language as tl

from vllm_mtp.kernels.common.triton_common import dot, tanh


@triton.jit
def dot_kernel(a_ptr, b_ptr, out_ptr, M: tl.constexpr, K: tl.constexpr, N: tl.constexpr):  # type: ignore[no-untyped-def]
    m, k, n = tl.arange(0, M), tl.arange(0, K), tl.arange(0, N)
    a, b = tl.load(a_ptr + m[:, None] * K + k), tl.load(b_ptr + k[:, None] * N + n)
    tl.store(out_ptr + m[:, None] * N + n, dot(a, b, tl.full((M, N), 1.0, tl.float32)))


@triton.jit
def plain_dot_kernel(a_ptr, b_ptr, out_ptr, M: tl.constexpr, K: tl.constexpr, N: tl.constexpr):  # type: ignore[no-untyped-def]
    m, k, n = tl.arange(0, M), tl.arange(0, K), tl.arange(0, N)
    a, b = tl.load(a_ptr + m[:, None] * K + k), tl.load(b_ptr + k[:, None] * N + n)
    tl.store(out_ptr + m[:, None] * N + n, tl.dot(a, b))


@triton.jit
def tanh_kernel(x_ptr, out_ptr, N: tl.constexpr):  # type: ignore[no-untyped-def]
    n = tl.arange(0, N)
    tl.store(out_ptr + n, tanh(tl.load(x_ptr + n)))
