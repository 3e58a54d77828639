"""reference.py is ops.py in plain PyTorch: the same names, the same signatures, the same results.

Catches: a public function without a plain twin, an argument or a default that only one of them has, a reference that
needs Triton.
"""

import inspect

import pytest
import torch

from tests.kernels.compare import assert_close
from tests.kernels.embed_hidden_projection_cases import case, expected
from tests.kernels.reference_cases import CALLS, FUNCTIONS, check
from vllm_mtp.kernels import ops, reference


def test_every_function_is_tried() -> None:
    assert sorted(CALLS) == FUNCTIONS
    assert set(ops.__all__) <= set(reference.__all__)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_signatures(name: str) -> None:
    ours, plain = inspect.signature(getattr(ops, name)), inspect.signature(getattr(reference, name))
    assert list(ours.parameters.values()) == list(plain.parameters.values())
    assert ours.return_annotation == plain.return_annotation


@pytest.mark.parametrize("name", FUNCTIONS)
def test_results(name: str) -> None:
    check(name)


def test_autograd_differentiates_the_projection() -> None:
    """The backward that the operator has is written by hand; here there is none."""
    a = case(unit_offset=True, positions=True)
    reference.embed_hidden_projection(**a.arguments).backward(a.gradient_TN)
    for name, gradient in expected(a)[1].items():
        assert_close(a.arguments[name].grad, gradient, torch.float32)


def test_a_part_without_rows() -> None:
    h, w = torch.ones(2, 8), torch.ones(0, 8)
    for found, plain in zip(ops.draft_head_part(h, w), reference.draft_head_part(h, w), strict=True):
        assert torch.equal(found, plain)
