"""The kernels of the entry of an MTP module in Triton's interpreter, values and gradients, in both forms.

Catches: halves in the wrong order or scaled by each other's norm, rows or outputs beyond the last that are read or
written, a norm weight left out or with its offset twice, eps left out, position 0 masked in the wrong half or after the
norm of another token, or by a factor, which NaN survives, vectors read as if their numbers were neighbours, a gradient
that sums padding rows, or that is summed over some of the tokens.
"""

from typing import Any

import pytest
import torch

from tests.kernels.compare import assert_close, error
from tests.kernels.embed_hidden_projection_cases import EPS, case, check, expected
from vllm_mtp.kernels.embed_hidden_projection import kernel as kernels
from vllm_mtp.kernels.ops import embed_hidden_projection, fold_norm_weights

FORMS = pytest.mark.parametrize("one_launch", [False, True], ids=["two launches", "one launch"])
OPTIONS: list[dict[str, Any]] = [
    {"order": "hidden_embed"},
    {"unit_offset": True, "positions": True},
    {"norms": False, "ids": False},
    {"ids": False, "positions": True, "order": "hidden_embed"},
]


@FORMS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_dtypes(dtype: torch.dtype, one_launch: bool) -> None:
    check(case(dtype=dtype, one_launch=one_launch), dtype)


@FORMS
@pytest.mark.parametrize("sizes", [(1, 72, 40), (33, 16, 130), (5, 128, 64)], ids=str)
def test_sizes(sizes: tuple[int, int, int], one_launch: bool) -> None:
    check(case(sizes, one_launch=one_launch), torch.float32)


@FORMS
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_options(options: dict[str, Any], one_launch: bool) -> None:
    check(case((5, 72, 40), one_launch=one_launch, **options), torch.float32)


def test_gradients_of_norms_sum_over_all_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """17 tokens on three programs, the last one with less to do."""
    monkeypatch.setattr(kernels, "_MAX_PARTIAL_SUMS", 3)
    check(case(), torch.float32)


@FORMS
@pytest.mark.parametrize("unit_offset", [False, True])
def test_folded_norm_weights(unit_offset: bool, one_launch: bool) -> None:
    a = case((5, 72, 40), order="hidden_embed", unit_offset=unit_offset).arguments
    g = {name: a.pop(name) for name in ("g_e", "g_h")}
    with torch.no_grad():
        expected = embed_hidden_projection(**a, **g)
        a["w"] = fold_norm_weights(a["w"], **g, unit_offset=unit_offset, order="hidden_embed")
        assert_close(embed_hidden_projection(**a | {"one_launch": one_launch}), expected, torch.float32)


def test_the_table_chooses_the_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is in it yet: two launches, until one has won on a GPU."""
    launches: list[str] = []
    for name in ("norms_kernel", "projection_kernel"):
        kernel = getattr(kernels, name)
        spy = type("Spy", (), {"__getitem__": lambda self, grid, n=name, k=kernel: (launches.append(n), k[grid])[1]})
        monkeypatch.setattr(kernels, name, spy())
    a = case((5, 16, 8)).arguments
    embed_hidden_projection(**a)
    assert not kernels.ONE_LAUNCH
    assert launches == ["norms_kernel"]
    monkeypatch.setattr(kernels, "ONE_LAUNCH", {"cpu": frozenset({16})})
    embed_hidden_projection(**a)
    assert launches == ["norms_kernel", "projection_kernel"]


@FORMS
def test_vectors_that_are_views(one_launch: bool) -> None:
    """Every other number of a longer vector, and a column of a batch."""
    a = case((5, 72, 40), positions=True, one_launch=one_launch)
    for name in ("ids", "positions", "g_e", "g_h"):
        vector = a.arguments[name].detach()
        wider = torch.stack([vector, torch.full_like(vector, 9)], 1)
        a.arguments[name] = (wider[:, 0] if name == "ids" else wider.flatten()[::2]).requires_grad_(name[0] == "g")
    check(a, torch.float32)


@FORMS
@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_masked_embedding_may_be_anything(number: float, one_launch: bool) -> None:
    a = case((5, 72, 40), positions=True, one_launch=one_launch)
    exact = expected(a)
    a.arguments["emb"][a.arguments["ids"][a.arguments["positions"] == 0]] = number
    output_TN = embed_hidden_projection(**a.arguments)
    output_TN.backward(a.gradient_TN)
    assert_close(output_TN.detach(), exact[0], torch.float32)
    for name, gradient in exact[1].items():
        assert_close(a.arguments[name].grad, gradient, torch.float32)


@FORMS
def test_float64_is_exact(one_launch: bool) -> None:
    a = case((5, 72, 40), torch.float64, one_launch=one_launch)
    output_TN = embed_hidden_projection(**a.arguments)
    output_TN.backward(a.gradient_TN)
    expected_TN, gradients = expected(a)
    assert error(output_TN.detach(), expected_TN) < 1e-12
    for name, gradient in gradients.items():
        assert error(a.arguments[name].grad, gradient) < 1e-12, name


@FORMS
def test_tokens_of_zeros(one_launch: bool) -> None:
    """Padding of a CUDA graph: nothing but eps in the root."""
    a = case((3, 72, 40), one_launch=one_launch).arguments
    a["h"] = torch.zeros(3, 72)
    found = embed_hidden_projection(**a)
    assert found.isfinite().all()
    assert EPS > 0
