"""The draft head as an operator of torch: its plain twin, opcheck, torch.compile, and what it refuses.

Catches: a twin that is wrong itself, rows of a second chunk, a fake of other shapes, a dtype or a scale that is taken
without a word.
"""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from tests.kernels.compare import random
from tests.kernels.draft_head_cases import BF16, DTYPES, FP8, FP32, INT8, SIZES, check_best, head
from vllm_mtp.kernels.draft_head import op, reference
from vllm_mtp.kernels.ops import (
    HeadRows,
    QuantizedRows,
    draft_head,
    draft_head_part,
    quantize_head,
    warm_up_draft_head,
)


@pytest.mark.parametrize("dtypes", DTYPES, ids=str)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_plain_twin(sizes: tuple[int, int, int], dtypes: tuple[torch.dtype, torch.dtype]) -> None:
    check_best(head(sizes, *dtypes, bias=True, d2t=True))


def test_chunks_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "_NUM_ROWS_AT_ONCE", 50)
    check_best(head((17, 72, 201), bias=True, d2t=True))
    weight_VD = torch.full((201, 72), -1.0)
    weight_VD[[60, 160]] = 1.0
    rows = HeadRows(weight_VD)
    assert draft_head(torch.ones(1, 72), rows).tolist() == [60], "the lowest of equal rows in two chunks"
    assert draft_head(torch.full((1, 72), float("nan")), rows).tolist() == [0]


@pytest.mark.parametrize("dtype", [FP8, INT8], ids=str)
def test_quantized_rows_are_the_nearest(dtype: torch.dtype) -> None:
    rows = random(20, 72) * random(20, 1, seed=1).exp()
    quantized, scale = quantize_head(rows, dtype)
    restored = quantized.float() * scale[:, None]
    step = scale[:, None] / 2 if dtype == INT8 else rows.abs() / 16 + scale[:, None] * 2**-10
    assert ((restored - rows).abs() <= 1.0001 * step).all()
    assert torch.equal(quantized.float().abs().amax(-1), torch.full((20,), 127.0 if dtype == INT8 else 448.0))


def test_no_tokens() -> None:
    assert draft_head(torch.empty(0, 8), HeadRows(torch.ones(3, 8))).shape == (0,)


@pytest.mark.parametrize("weight_dtype", [FP32, INT8], ids=str)  # opcheck itself cannot multiply float8
def test_opcheck(weight_dtype: torch.dtype) -> None:
    case = head((5, 72, 201), FP32, weight_dtype, bias=True, d2t=True)
    torch.library.opcheck(torch.ops.vllm_mtp.draft_head.default, (case.hidden_TD, None, *case.rows))
    torch.library.opcheck(torch.ops.vllm_mtp.quantize_rows.default, (case.hidden_TD, INT8))


def test_one_graph() -> None:
    case = head((5, 72, 201), BF16, INT8, bias=True, d2t=True)

    def step(hidden_TD: Tensor, *rows: Any) -> Tensor:
        part = draft_head_part(hidden_TD, HeadRows(*rows))
        return part.id_T + part.logit_T

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(case.hidden_TD, *case.rows), step(case.hidden_TD, *case.rows))


def test_one_graph_for_any_number_of_tokens() -> None:
    def step(hidden_TD: Tensor, weight_VD: Tensor) -> tuple[Tensor, Tensor]:
        quantized_TD, hidden_scale_T = quantize_head(hidden_TD, INT8)
        rows = HeadRows(weight_VD.to(INT8), torch.ones(len(weight_VD)))
        return draft_head(hidden_TD, HeadRows(weight_VD)), draft_head(quantized_TD, rows, hidden_scale_T)

    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(step, backend=counter, fullgraph=True, dynamic=True)
    counts = set()
    for num_tokens in (5, 6, 9):
        case = head((num_tokens, 72, 201))
        arguments = case.hidden_TD, case.rows.weight_VD
        for found, expected in zip(compiled(*arguments), step(*arguments), strict=True):
            torch.testing.assert_close(found, expected)
        counts.add(counter.frame_count)
    assert len(counts) == 1, "nothing was compiled after the first call"


@pytest.mark.parametrize("quantized", [FP8, INT8], ids=str)
def test_warming_up_quantizes_what_is_served(quantized: torch.dtype) -> None:
    """Activations are of 16 bits; from others, another kernel would be compiled."""
    seen = set()

    def spy(a: reference.RowsArguments) -> QuantizedRows:
        seen.add(a.rows_RD.dtype)
        return reference.quantize_rows(a)

    spied = op.DraftHeads(reference.best_rows, spy)
    spied.warm_up_draft_head(HeadRows(torch.ones(3, 8).to(quantized), torch.ones(3)), quantized)
    assert {BF16, torch.float16} <= seen


@pytest.mark.parametrize("dtype", [FP32, INT8], ids=str)
def test_warming_up_changes_nothing(dtype: torch.dtype) -> None:
    case = head((5, 72, 201), dtype, dtype)
    warm_up_draft_head(case.rows, dtype)
    check_best(case)


H, W = torch.ones(2, 8), torch.ones(3, 8)
REFUSED: list[tuple[Tensor, HeadRows, str]] = [
    (torch.ones(2, 7), HeadRows(W), r"Expected hidden \[T, D\] and weight \[V, D\], got \[2, 7\]"),
    (H, HeadRows(W[:0]), "weight: expected rows of a head, got none"),
    (H, HeadRows(torch.ones(8, 3).T), "weight: expected rows without gaps"),
    (H.bfloat16(), HeadRows(W), "hidden: expected the dtype of the weight, torch.float32, got torch.bfloat16"),
    (H, HeadRows(W.double()), "expected floating-point or quantized rows, got torch.float32 and torch.float64"),
    (H, HeadRows(W.to(INT8)), "scale: expected one with quantized rows"),
    (H, HeadRows(W, torch.ones(3)), "scale: expected one with quantized rows, and only there"),
    (H, HeadRows(W.to(INT8), torch.ones(2)), r"scale: expected float32 \[3\], got torch.float32 \[2\]"),
    (H.to(FP8), HeadRows(W.to(INT8), torch.ones(3)), "expected floating-point or quantized rows"),
    (H, HeadRows(W, bias_V=torch.ones(2)), r"bias: expected \[3\]"),
    (H, HeadRows(W, d2t_V=torch.ones(3)), r"d2t: expected int64 \[3\]"),
]


@pytest.mark.parametrize(("hidden_TD", "rows", "message"), REFUSED, ids=[case[2] for case in REFUSED])
def test_what_does_not_fit_is_refused(hidden_TD: Tensor, rows: HeadRows, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draft_head(hidden_TD, rows)


def test_a_part_without_rows_loses() -> None:
    assert draft_head_part(H, HeadRows(W[:0])).logit_T.tolist() == [float("-inf")] * 2
    with pytest.raises(ValueError, match="dtype: expected one of"):
        quantize_head(W, torch.uint8)
