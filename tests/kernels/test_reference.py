"""reference.py is ops.py in plain PyTorch: the same names, the same signatures, the same results.

Catches: a public function without a plain twin, an argument or a default that only one of them has, a reference that
needs Triton or runs the operators, a schema that says something else than the twin's annotations.
"""

import inspect

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.kernels.reference_cases import CALLS, FUNCTIONS, check
from vllm_mtp.kernels import ops, reference
from vllm_mtp.kernels.common.registration import schema
from vllm_mtp.kernels.draft_head.reference import best_rows
from vllm_mtp.kernels.embed_hidden_projection.reference import embed_hidden_projection


def test_every_function_is_tried() -> None:
    assert sorted(CALLS) == FUNCTIONS
    assert set(FUNCTIONS) <= set(reference.__all__)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_signatures(name: str) -> None:
    ours, plain = inspect.signature(getattr(ops, name)), inspect.signature(getattr(reference, name))
    assert list(ours.parameters.values()) == list(plain.parameters.values())
    assert ours.return_annotation == plain.return_annotation


@pytest.mark.parametrize("name", FUNCTIONS)
def test_results(name: str) -> None:
    check(name)


class Operators(TorchDispatchMode):
    """Remembers which of our operators ran."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if func.namespace == "vllm_mtp":
            self.names.add(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", sorted({*FUNCTIONS} - {"combine_draft_parts"}))
def test_the_reference_runs_no_operator(name: str) -> None:
    for functions, runs in ((ops, True), (reference, False)):
        with Operators() as operators:
            CALLS[name](functions)
        assert bool(operators.names) is runs


def test_schemas() -> None:
    assert schema(embed_hidden_projection) == (
        "(Tensor? ids_T, Tensor embedding, Tensor hidden_TD, Tensor weight_NC, Tensor embed_norm_D, "
        "Tensor hidden_norm_D, float eps) -> Tensor"
    )
    assert schema(best_rows) == (
        "(Tensor hidden_TD, Tensor? hidden_scale_T, Tensor weight_VD, Tensor? scale_V, Tensor? bias_V, Tensor? d2t_V, "
        "SymInt first_id) -> (Tensor, Tensor)"
    )


def test_a_part_without_rows() -> None:
    hidden_TD, rows = torch.ones(2, 8), ops.HeadRows(torch.ones(0, 8))
    for found, plain in zip(
        ops.draft_head_part(hidden_TD, rows), reference.draft_head_part(hidden_TD, rows), strict=True
    ):
        assert torch.equal(found, plain)
