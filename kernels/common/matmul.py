"""The library's matrix product with float32 results of narrower factors."""

import functools
import warnings

import torch
from torch import Tensor


def product(a_MK: Tensor, b_KN: Tensor, dtype: torch.dtype) -> Tensor:
    """a b in a dtype at least as wide as theirs, [M, N], added up in float32 and rounded once.

    A GPU's library writes float32 from bfloat16 factors; the CPU's does not, so there the factors are widened.
    """
    if a_MK.dtype == dtype:
        return a_MK @ b_KN
    if a_MK.is_cuda and dtype == torch.float32 and _has_wide_results(a_MK.dtype, a_MK.device):
        return torch.mm(a_MK, b_KN, out_dtype=dtype)
    if a_MK.is_cuda:
        return (a_MK @ b_KN).to(dtype)
    return a_MK.to(dtype) @ b_KN.to(dtype)


@functools.cache
def _has_wide_results(dtype: torch.dtype, device: torch.device) -> bool:
    ones = torch.ones(16, 16, dtype=dtype, device=device)
    try:
        torch.mm(ones, ones, out_dtype=torch.float32)
    except (NotImplementedError, RuntimeError, TypeError) as error:
        warnings.warn(f"vllm_mtp rounds logits to {dtype}: this device's products have no other: {error}", stacklevel=2)
        return False
    return True
