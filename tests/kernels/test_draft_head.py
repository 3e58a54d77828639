"""The draft head as an operator of torch: its plain twin, opcheck, torch.compile, and what it refuses.

Catches: a twin that is wrong itself, rows of a second chunk, a fake of other shapes, a sampler whose tokens do not have
the probabilities of softmax, a dtype or a scale that is taken without a word.
"""

from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from tests.kernels.compare import random
from tests.kernels.draft_head_cases import BF16, DTYPES, FP8, FP32, INT8, SIZES, check_best, head
from vllm_mtp.kernels.draft_head import op as draft_head_op
from vllm_mtp.kernels.draft_head import reference
from vllm_mtp.kernels.ops import draft_head, draft_head_part, quantize_head, warm_up_draft_head


@pytest.mark.parametrize("dtypes", DTYPES, ids=str)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_plain_twin(sizes: tuple[int, int, int], dtypes: tuple[torch.dtype, torch.dtype]) -> None:
    check_best(head(sizes, *dtypes, bias=True, d2t=True, logit_scale=0.3, soft_cap=20.0))


def test_chunks_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "_NUM_ROWS_AT_ONCE", 50)
    check_best(head((17, 72, 201), bias=True, d2t=True))
    w = torch.full((201, 72), -1.0)
    w[[60, 160]] = 1.0
    assert draft_head(torch.ones(1, 72), w).tolist() == [60], "the lowest of equal rows in two chunks"
    assert draft_head(torch.full((1, 72), float("nan")), w).tolist() == [0]
    case = head((5, 72, 201), d2t=True)
    samples = [draft_head(case.h, case.w, gumbel_seed=3, **case.options)]
    monkeypatch.undo()
    samples.append(draft_head(case.h, case.w, gumbel_seed=3, **case.options))
    assert torch.equal(*samples)


def test_samples_have_the_probabilities_of_softmax() -> None:
    """Chi-square of 20,000 samples of 12 tokens, 11 degrees of freedom: above 31.3 once in a thousand seeds."""
    w, h = random(12, 8, seed=1), random(1, 8, seed=2)
    num_samples = 20_000
    ids_T = draft_head(h.expand(num_samples, -1).contiguous(), w, gumbel_seed=11, logit_scale=0.7, soft_cap=4.0)
    expected_V = (0.7 * 4.0 * torch.tanh(h @ w.T / 4.0)).softmax(-1)[0] * num_samples
    counts_V = torch.bincount(ids_T, minlength=12)
    assert float(((counts_V - expected_V) ** 2 / expected_V).sum()) < 31.3
    other_T = draft_head(h.expand(100, -1).contiguous(), w, gumbel_seed=12, logit_scale=0.7, soft_cap=4.0)
    assert not torch.equal(other_T, ids_T[:100])


def test_noise_is_philox() -> None:
    """The first word of Philox 4x32-10 for counter and key 0, of the paper's own test vectors: 0x6627e8d5."""
    noise = reference._gumbel_noise(torch.tensor([0]), torch.tensor([0]), 1)
    u = torch.tensor(((0x6627E8D5 >> 9) + 0.5) * 2.0**-23)
    torch.testing.assert_close(noise[0, 0], -torch.log(-torch.log(u)))


@pytest.mark.parametrize("dtype", [FP8, INT8], ids=str)
def test_quantised_rows_are_the_nearest(dtype: torch.dtype) -> None:
    w = random(20, 72) * random(20, 1, seed=1).exp()
    q, scale = quantize_head(w, dtype)
    restored = q.float() * scale[:, None]
    step = scale[:, None] / 2 if dtype == INT8 else w.abs() / 16 + scale[:, None] * 2**-10
    assert ((restored - w).abs() <= 1.0001 * step).all()
    assert torch.equal(q.float().abs().amax(-1), torch.full((20,), 127.0 if dtype == INT8 else 448.0))


def test_ids_go_where_they_are_wanted() -> None:
    case, out = head((5, 72, 201)), torch.full((5,), -1)
    assert draft_head(case.h, case.w, out=out) is out
    assert torch.equal(out, draft_head(case.h, case.w))


def test_no_tokens() -> None:
    ids_T, confidence_T = draft_head(torch.empty(0, 8), torch.ones(3, 8), return_confidence=True)
    assert ids_T.shape == confidence_T.shape == (0,)


@pytest.mark.parametrize("confidence", [False, True])
@pytest.mark.parametrize("weight_dtype", [FP32, INT8], ids=str)  # opcheck itself cannot multiply float8
def test_opcheck(weight_dtype: torch.dtype, confidence: bool) -> None:
    case = head((5, 72, 201), FP32, weight_dtype, bias=True, d2t=True)
    seed = torch.tensor([3]) if confidence else None
    arguments = (case.h, case.w, case.options.get("scale"), None, case.options["bias"], case.options["d2t"], seed)
    torch.library.opcheck(torch.ops.vllm_mtp.draft_head.default, (*arguments, 0, 1.0, None, confidence))
    torch.library.opcheck(torch.ops.vllm_mtp.quantize_rows.default, (case.h, INT8))


def test_one_graph() -> None:
    case = head((5, 72, 201), BF16, INT8, bias=True, d2t=True)

    def step(h: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        ids_T, confidence_T = draft_head(h, w, return_confidence=True, gumbel_seed=4, **case.options)
        return ids_T + confidence_T

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(case.h, case.w), step(case.h, case.w))


def test_one_graph_for_any_number_of_tokens() -> None:
    def step(h: torch.Tensor, w: torch.Tensor) -> tuple[torch.Tensor, ...]:
        q, hidden_scale = quantize_head(h, INT8)
        of_rows = draft_head(q, w.to(INT8), scale=torch.ones(len(w)), hidden_scale=hidden_scale)
        return (*draft_head(h, w, return_confidence=True), of_rows)

    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(step, backend=counter, fullgraph=True, dynamic=True)
    counts = set()
    for num_tokens in (5, 6, 9):
        case = head((num_tokens, 72, 201))
        for found, expected in zip(compiled(case.h, case.w), step(case.h, case.w), strict=True):
            torch.testing.assert_close(found, expected)
        counts.add(counter.frame_count)
    assert len(counts) == 1, "nothing was compiled after the first call"


@pytest.mark.parametrize("quantised", [FP8, INT8], ids=str)
def test_warming_up_quantises_what_is_served(quantised: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Activations are of 16 bits; from others, another kernel would be compiled."""
    seen = set()

    def spy(rows: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        seen.add(rows.dtype)
        return quantize_head(rows, dtype)

    monkeypatch.setattr(draft_head_op, "quantize_head", spy)
    warm_up_draft_head(torch.ones(3, 8).to(quantised), quantised, scale=torch.ones(3))
    assert {BF16, torch.float16} <= seen


@pytest.mark.parametrize("dtype", [FP32, INT8], ids=str)
def test_warming_up_changes_nothing(dtype: torch.dtype) -> None:
    case = head((5, 72, 201), dtype, dtype)
    scale = {"scale": case.options["scale"]} if dtype == INT8 else {}
    warm_up_draft_head(case.w, dtype, **scale)
    check_best(case)


H, W = torch.ones(2, 8), torch.ones(3, 8)
REFUSED: list[tuple[torch.Tensor, torch.Tensor, dict[str, Any], str]] = [
    (torch.ones(2, 7), W, {}, r"Expected h \[T, D\] and w \[V, D\], got \[2, 7\]"),
    (H, W[:0], {}, "w: expected rows of a head, got none"),
    (H, torch.ones(8, 3).T, {}, "w: expected rows without gaps"),
    (H.bfloat16(), W, {}, "h: expected the dtype of w, torch.float32, got torch.bfloat16"),
    (H, W.double(), {}, "expected floating-point or quantised rows, got torch.float32 and torch.float64"),
    (H, W.to(INT8), {}, "scale: expected one with quantised rows"),
    (H, W, {"scale": torch.ones(3)}, "scale: expected one with quantised rows, and only there"),
    (H, W.to(INT8), {"scale": torch.ones(2)}, r"scale: expected float32 \[3\], got torch.float32 \[2\]"),
    (H.to(FP8), W.to(INT8), {"scale": torch.ones(3)}, "expected floating-point or quantised rows"),
    (H, W, {"bias": torch.ones(2)}, r"bias: expected \[3\]"),
    (H, W, {"d2t": torch.ones(3)}, r"d2t: expected int64 \[3\]"),
    (H, W, {"logit_scale": -1.0}, "logit_scale: expected a positive number, got -1.0"),
    (H, W, {"soft_cap": 0.0}, "soft_cap: expected a positive number or None, got 0.0"),
]


@pytest.mark.parametrize(("h", "w", "options", "message"), REFUSED, ids=[case[3] for case in REFUSED])
def test_what_does_not_fit_is_refused(h: torch.Tensor, w: torch.Tensor, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draft_head(h, w, **options)


def test_a_part_without_rows_loses() -> None:
    part = draft_head_part(H, W[:0], confidence=True)
    assert part.key_T.tolist() == part.lse_T.tolist() == [float("-inf")] * 2
    with pytest.raises(ValueError, match="dtype: expected one of"):
        quantize_head(W, torch.uint8)
