"""The kernel of the entry of an MTP module in Triton's interpreter.

Catches: halves in the wrong order or scaled by each other's norm, rows beyond the last that are read or written, a norm
weight or eps left out, vectors read as if their numbers were neighbours.
"""

import pytest
import torch

from tests.kernels.compare import error
from tests.kernels.embed_hidden_projection_cases import case, check, expected
from vllm_mtp.kernels.ops import embed_hidden_projection


@pytest.mark.parametrize("ids", [True, False], ids=["table", "rows"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_dtypes(dtype: torch.dtype, ids: bool) -> None:
    check(case(dtype=dtype, ids=ids), dtype)


@pytest.mark.parametrize("sizes", [(1, 72, 40), (33, 16, 130), (5, 128, 64)], ids=str)
def test_sizes(sizes: tuple[int, int, int]) -> None:
    check(case(sizes), torch.float32)


def test_vectors_that_are_views() -> None:
    """Every other number of a longer vector, and a column of a batch."""
    arguments = case((5, 72, 40))
    for name in ("ids_T", "embed_norm_D", "hidden_norm_D"):
        wider = torch.stack([arguments[name], torch.full_like(arguments[name], 9)], 1)
        arguments[name] = wider[:, 0] if name == "ids_T" else wider.flatten()[::2]
    check(arguments, torch.float32)


def test_float64_is_exact() -> None:
    arguments = case((5, 72, 40), torch.float64)
    assert error(embed_hidden_projection(**arguments), expected(**arguments)) < 1e-12


def test_tokens_of_zeros() -> None:
    """Padding of a CUDA graph: nothing but eps in the root."""
    arguments = case((3, 72, 40)) | {"hidden_TD": torch.zeros(3, 72)}
    assert embed_hidden_projection(**arguments).isfinite().all()
