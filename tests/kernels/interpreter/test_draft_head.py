"""The kernels of the draft head in Triton's interpreter.

Catches: a tile's best that another tile's overwrites, rows or tokens beyond the last that are read or win, memory
around the tensors that is taken for theirs, a tie that goes to a later row or tile, d2t applied to the wrong number or
twice, a NaN that moves the argmax, scales of quantized rows left out, vectors read as if their numbers were neighbours.
"""

import itertools

import pytest
import torch

from tests.kernels.compare import random
from tests.kernels.draft_head_cases import BF16, DTYPES, FP8, FP32, INT8, SIZES, check_best, head, made
from vllm_mtp.kernels import reference
from vllm_mtp.kernels.ops import DraftPart, HeadRows, combine_draft_parts, draft_head, draft_head_part, quantize_head

MIDDLE = (5, 72, 201)


@pytest.mark.parametrize("dtypes", DTYPES, ids=str)
def test_dtypes(dtypes: tuple[torch.dtype, torch.dtype]) -> None:
    check_best(head(MIDDLE, *dtypes, bias=True, d2t=True))


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_sizes(sizes: tuple[int, int, int]) -> None:
    check_best(head(sizes, BF16, BF16))


@pytest.mark.parametrize("option", ["bias", "d2t"])
def test_options(option: str) -> None:
    check_best(head(MIDDLE, **{option: True}))  # type: ignore[arg-type]


def test_of_equal_rows_the_lowest_wins() -> None:
    """Within a tile and across tiles; in all rows, and where one is best."""
    weight_VD = torch.full((300, 72), -1.0)
    weight_VD[[37, 38, 140, 299]] = 1.0
    rows = HeadRows(weight_VD)
    assert draft_head(torch.ones(2, 72), rows).tolist() == [37, 37]
    assert draft_head(torch.ones(2, 72), rows._replace(d2t_V=torch.arange(300))).tolist() == [74, 74]
    assert draft_head(torch.zeros(2, 72), rows).tolist() == [0, 0]


def test_saturated_rows() -> None:
    weight_VD = random(201, 72)
    for size in (1e30, 1e4, -1e4):
        found_T = draft_head(size * weight_VD[140:141], HeadRows(weight_VD))
        assert found_T.tolist() == [int((size * (weight_VD @ weight_VD[140])).argmax())]


@pytest.mark.parametrize("rows", [[140], list(range(128)), list(range(128, 201))], ids=["one", "first tile", "last"])
def test_nan_never_wins(rows: list[int]) -> None:
    case = head(MIDDLE)
    weight_VD = case.rows.weight_VD.clone()
    weight_VD[rows] = float("nan")
    logits_TV = case.logits_TV.index_fill(1, torch.tensor(rows), float("-inf"))
    assert draft_head(case.hidden_TD, HeadRows(weight_VD)).tolist() == logits_TV.argmax(-1).tolist()


def test_nothing_but_nan_gives_a_row_of_the_head() -> None:
    assert draft_head(torch.full((2, 72), float("nan")), HeadRows(random(201, 72))).tolist() == [0, 0]


def test_vectors_that_are_views() -> None:
    """Every other number of a longer vector, and one number for all rows."""
    case = head(MIDDLE, INT8, INT8, bias=True, d2t=True)
    views = [
        torch.stack([vector, torch.full_like(vector, 9)], 1)[:, 0]
        for vector in (case.rows.scale_V, case.rows.bias_V, case.rows.d2t_V, case.hidden_scale_T)
        if vector is not None
    ]
    assert [view.stride() for view in views] == [(2,)] * 4
    check_best(made(case.hidden_TD, HeadRows(case.rows.weight_VD, *views[:3]), views[3]))
    check_best(made(case.hidden_TD, HeadRows(case.rows.weight_VD, torch.tensor(0.5).expand(201)), views[3]))


def test_parts_choose_what_the_whole_head_chooses() -> None:
    """Parts of several sizes, one without rows."""
    case = head((5, 72, 201), bias=True)
    weight_VD, _, bias_V, _, _ = case.rows
    assert bias_V is not None
    whole = draft_head_part(case.hidden_TD, HeadRows(weight_VD, bias_V=bias_V, first_id=1000))
    parts = [
        draft_head_part(case.hidden_TD, HeadRows(weight_VD[start:end], bias_V=bias_V[start:end], first_id=1000 + start))
        for start, end in itertools.pairwise([0, 10, 10, 139, 201])
    ]
    found = combine_draft_parts(DraftPart(*(torch.stack(field) for field in zip(*parts, strict=True))))
    assert torch.equal(found.id_T, whole.id_T)
    assert whole.id_T.min() >= 1000
    torch.testing.assert_close(found.logit_T, whole.logit_T, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [FP8, INT8], ids=str)
@pytest.mark.parametrize("source", [FP32, BF16], ids=str)
def test_quantized_rows(dtype: torch.dtype, source: torch.dtype) -> None:
    """A row of zeros, and one whose largest number is tiny, among others."""
    rows = random(4, 72, dtype=source) * torch.tensor([1.0, 1e4, 1e-20, 0.0], dtype=source)[:, None]
    quantized, scale = quantize_head(rows, dtype)
    expected = reference.quantize_head(rows, dtype)
    assert quantized.dtype == dtype
    torch.testing.assert_close(scale, expected.scale_R, rtol=1e-6, atol=0)
    equal = (quantized.float() == expected.quantized_RD.float()).float().mean()
    assert equal > (0.9 if dtype == FP8 else 0.99), "the interpreter rounds some numbers to another float8"
    assert (quantized[3] == 0).all()
