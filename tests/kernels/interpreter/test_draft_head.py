"""The kernels of the draft head in Triton's interpreter.

Catches: a tile's best that another tile's overwrites, rows or tokens beyond the last that are read or win, memory
around the tensors that is taken for theirs, a tie that goes to a later row or tile, d2t applied to the wrong number or
twice, the cap or a NaN that moves the argmax, scales of quantised rows left out, a probability of another token, noise
that depends on the tile, vectors read as if their numbers were neighbours.
"""

import itertools

import pytest
import torch

from tests.kernels.compare import random
from tests.kernels.draft_head_cases import BF16, DTYPES, FP8, FP32, INT8, SIZES, Head, check_best, head
from vllm_mtp.kernels.draft_head import reference
from vllm_mtp.kernels.ops import DraftPart, combine_draft_parts, draft_head, draft_head_part, quantize_head

MIDDLE = (5, 72, 201)


@pytest.mark.parametrize("dtypes", DTYPES, ids=str)
def test_dtypes(dtypes: tuple[torch.dtype, torch.dtype]) -> None:
    check_best(head(MIDDLE, *dtypes, bias=True, d2t=True, logit_scale=0.3, soft_cap=20.0))


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_sizes(sizes: tuple[int, int, int]) -> None:
    check_best(head(sizes, BF16, BF16))


@pytest.mark.parametrize("option", [{"bias": True}, {"d2t": True}, {"logit_scale": 3.0}, {"soft_cap": 0.5}], ids=str)
def test_options(option: dict[str, object]) -> None:
    check_best(head(MIDDLE, **option))  # type: ignore[arg-type]


def test_of_equal_rows_the_lowest_wins() -> None:
    """Within a tile and across tiles; in all rows, and where one is best."""
    w = torch.full((300, 72), -1.0)
    w[[37, 38, 140, 299]] = 1.0
    assert draft_head(torch.ones(2, 72), w).tolist() == [37, 37]
    assert draft_head(torch.ones(2, 72), w, d2t=torch.arange(300)).tolist() == [74, 74]
    assert draft_head(torch.zeros(2, 72), w, soft_cap=1.0).tolist() == [0, 0]


def test_a_cap_that_makes_logits_equal_does_not_move_the_best() -> None:
    w = torch.ones(201, 72)
    w[150] = 2.0
    ids_T, confidence_T = draft_head(torch.full((1, 72), 1e3), w, soft_cap=1.0, return_confidence=True)
    assert ids_T.tolist() == [150]
    torch.testing.assert_close(confidence_T, torch.tensor([1 / 201]))


def test_saturated_rows() -> None:
    """Logits of 1e30, and of a size at which exp without the maximum taken off overflows."""
    w = random(201, 72)
    for size in (1e30, 1e4, -1e4):
        ids_T, confidence_T = draft_head(size * w[140:141], w, return_confidence=True)
        assert ids_T.tolist() == [int((size * (w @ w[140])).argmax())]
        torch.testing.assert_close(confidence_T, torch.ones(1))


@pytest.mark.parametrize("soft_cap", [None, 5.0])
@pytest.mark.parametrize("rows", [[140], list(range(128)), list(range(128, 201))], ids=["one", "first tile", "last"])
def test_nan_never_wins(rows: list[int], soft_cap: float | None) -> None:
    case = head(MIDDLE, soft_cap=soft_cap)
    w = case.w.clone()
    w[rows] = float("nan")
    logits_TV = case.logits_TV.index_fill(1, torch.tensor(rows), float("-inf"))
    ids_T, confidence_T = draft_head(case.h, w, return_confidence=True, soft_cap=soft_cap)
    assert ids_T.tolist() == logits_TV.argmax(-1).tolist()
    expected_T = logits_TV.softmax(-1).amax(-1)
    torch.testing.assert_close(confidence_T.double(), expected_T, rtol=1e-4, atol=1e-12)


def test_nothing_but_nan_gives_a_row_of_the_head() -> None:
    assert draft_head(torch.full((2, 72), float("nan")), random(201, 72)).tolist() == [0, 0]


@pytest.mark.parametrize("confidence", [False, True], ids=["ids", "with probability"])
@pytest.mark.parametrize("d2t", [False, True], ids=["all ids", "d2t"])
def test_samples_are_the_plain_twins(confidence: bool, d2t: bool) -> None:
    """The same noise, bit for bit, and so the same tokens."""
    case = head((3, 72, 201), d2t=d2t, logit_scale=0.2, soft_cap=10.0)
    for seed in (0, 2**40 + 7, -1):
        found = draft_head_part(case.h, case.w, confidence=confidence, gumbel_seed=seed, **case.options)
        expected = reference.best_rows(
            case.h, case.w, None, None, None, case.options.get("d2t"), torch.tensor([seed]), 0, 0.2, 10.0, confidence
        )
        assert torch.equal(found.id_T, expected[0])
        for ours, theirs in zip(found[1:], expected[1:], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_vectors_that_are_views() -> None:
    """Every other number of a longer vector, and one number for all rows."""
    case = head(MIDDLE, INT8, INT8, bias=True, d2t=True)
    for name in ("scale", "hidden_scale", "bias", "d2t"):
        vector = case.options[name]
        case.options[name] = torch.stack([vector, torch.full_like(vector, 9)], 1)[:, 0]
        assert case.options[name].stride() == (2,)
    check_best(case)
    options = {"scale": torch.tensor(0.5).expand(201), "hidden_scale": case.options["hidden_scale"]}
    z_TV = case.h.double() @ case.w.double().T * 0.5 * options["hidden_scale"].double()[:, None]
    check_best(Head(h=case.h, w=case.w, options=options, z_TV=z_TV, logits_TV=z_TV))


@pytest.mark.parametrize("gumbel_seed", [None, 5], ids=["best", "sample"])
def test_parts_choose_what_the_whole_head_chooses(gumbel_seed: int | None) -> None:
    """Parts of several sizes, one without rows."""
    case = head((5, 72, 201), bias=True, logit_scale=0.3)
    bias_V, bounds = case.options.pop("bias"), [0, 10, 10, 139, 201]
    whole = draft_head_part(
        case.h, case.w, bias=bias_V, confidence=True, gumbel_seed=gumbel_seed, first_id=1000, **case.options
    )
    parts = [
        draft_head_part(
            case.h,
            case.w[start:end],
            bias=bias_V[start:end],
            first_id=1000 + start,
            confidence=True,
            gumbel_seed=gumbel_seed,
            **case.options,
        )
        for start, end in itertools.pairwise(bounds)
    ]
    found = combine_draft_parts(DraftPart(*(torch.stack(field) for field in zip(*parts, strict=True))))
    assert torch.equal(found.id_T, whole.id_T)
    assert whole.id_T.min() >= 1000
    for ours, theirs in zip(found[1:], whole[1:], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [FP8, INT8], ids=str)
@pytest.mark.parametrize("source", [FP32, BF16], ids=str)
def test_quantised_rows(dtype: torch.dtype, source: torch.dtype) -> None:
    """A row of zeros, and one whose largest number is tiny, among others."""
    x = random(4, 72, dtype=source) * torch.tensor([1.0, 1e4, 1e-20, 0.0], dtype=source)[:, None]
    q, scale = quantize_head(x, dtype)
    expected_q, expected_scale = reference.quantize_head(x, dtype)
    assert q.dtype == dtype
    torch.testing.assert_close(scale, expected_scale, rtol=1e-6, atol=0)
    equal = (q.float() == expected_q.float()).float().mean()
    assert equal > (0.9 if dtype == FP8 else 0.99), "the interpreter rounds some numbers to another float8"
    assert (q[3] == 0).all()
