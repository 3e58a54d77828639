"""The Triton kernels of `linear_kl` and `mean_embedding`, in Triton's interpreter, against float64 autograd.

Catches what the plain twin cannot have: a block's lanes beyond the vocabulary that count, a running maximum that is not
rescaled, the first of equal logits lost between blocks, a gradient that overwrites logits before they are read, rows
addressed by the wrong stride, uninitialised memory taken for a result.
"""

# Shapes: K draft steps, T tokens, D hidden size, V vocabulary.

from typing import Any

import pytest
import torch

from tests.kernels.compare import assert_close, error, random
from tests.kernels.linear_kl_cases import Case, case, check, check_without_rows, expected
from vllm_mtp.kernels.linear_kl.objectives import OBJECTIVES
from vllm_mtp.kernels.ops import linear_kl, mean_embedding

# The interpreter reads rows in blocks of 128: one with lanes to spare, two exactly, one and a bit more.
VOCAB_SIZES = (72, 256, 201)
SMALL: dict[str, Any] = {"num_tokens": 5, "hidden_size": 24}


@pytest.fixture(autouse=True)
def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that nobody wrote is NaN, or a large number."""

    def filled(make: Any) -> Any:
        def poisoned(*args: Any, **kwargs: Any) -> torch.Tensor:
            tensor: torch.Tensor = make(*args, **kwargs)
            return tensor.fill_(float("nan") if tensor.is_floating_point() else 77)

        return poisoned

    monkeypatch.setattr(torch.Tensor, "new_empty", filled(torch.Tensor.new_empty))
    monkeypatch.setattr(torch, "empty_like", filled(torch.empty_like))


@pytest.mark.parametrize("soft_cap", [None, 2.0])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_objectives(objective: str, soft_cap: float | None) -> None:
    weights = torch.tensor([1.0, 0.0, 2.0, 0.5, 3.0])
    options = {"soft_cap": soft_cap, "weights_KT": weights, "bias_V": True, "scale": 0.7, "chunk_size": 3}
    check(linear_kl, case(objective=objective, num_steps=2, **SMALL, **options))


def test_a_cap_far_above_the_logits() -> None:
    """An error of tanh near 0 is multiplied by the cap: 2 sigmoid(2x) - 1 cancels, and the gradient is off by 5e-6."""
    inputs = case(soft_cap=30.0, logit_size=0.1, **SMALL)
    h_s = inputs.h_s.clone().requires_grad_()
    linear_kl(h_s, inputs.h_t, inputs.w, **inputs.options).loss.backward()
    assert h_s.grad is not None
    assert error(h_s.grad, expected(inputs)["gradient"]) < 2.5e-6


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_bias_takes_tokens_out(objective: str) -> None:
    check_without_rows(linear_kl, objective)


@pytest.mark.parametrize("vocab_size", VOCAB_SIZES)
@pytest.mark.parametrize("objective", ["kl", "tv"])  # one pass and two
def test_vocabulary_sizes(objective: str, vocab_size: int) -> None:
    check(linear_kl, case(objective=objective, vocab_size=vocab_size, **SMALL))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("objective", ["kl", "lk", "lm"])
def test_dtypes(objective: str, dtype: torch.dtype) -> None:
    inputs = case(objective=objective, dtype=dtype, vocab_size=130, **SMALL)
    if objective != "lk":
        check(linear_kl, inputs)
        return
    # A token with p close to q may fall to the other side by rounding, which moves the gradient, not the value.
    found = linear_kl(inputs.h_s, inputs.h_t, inputs.w, **inputs.options)
    assert_close(found.per_token, expected(inputs)["per_token"], dtype)


@pytest.mark.parametrize("num_tokens", [1, 3, 4])
def test_chunks(num_tokens: int) -> None:
    check(linear_kl, case(num_tokens=num_tokens, vocab_size=130, chunk_size=3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_mean_embedding_is_the_same_kl(dtype: torch.dtype) -> None:
    weights = torch.tensor([1.0, 0.0, 2.0, 0.5, 3.0])
    inputs = case(num_steps=2, bias_V=True, scale=0.7, weights_KT=weights, dtype=dtype, **SMALL)
    teacher = mean_embedding(inputs.h_t, inputs.w, bias_V=inputs.options["bias_V"], scale=0.7, chunk_size=3)
    h_s = inputs.h_s.clone().requires_grad_()
    found = linear_kl(h_s, teacher, inputs.w, **inputs.options, chunk_size=3)
    found.loss.backward()
    exact = expected(inputs)
    assert_close(found.per_token.detach(), exact["per_token"], dtype)
    assert h_s.grad is not None
    assert_close(h_s.grad, exact["gradient"], dtype)
    assert torch.equal(found.agreement, exact["agreement"])


def test_the_mean_row_and_the_constant() -> None:
    h_t, w, bias = random(4, 24), random(201, 24, seed=1), random(201, seed=2)
    found = mean_embedding(h_t, w, bias_V=bias, scale=1.7)
    log_p = ((h_t.double() @ w.double().T + bias) * 1.7).log_softmax(-1)
    p = log_p.exp()
    assert_close(found.mean_ND, p @ w.double(), torch.float32)
    # The difference of two numbers about as large as its result is.
    assert_close(found.constant_N, (p * log_p).sum(-1) - 1.7 * (p @ bias.double()), torch.float32, factor=2)
    assert torch.equal(found.top_N, p.argmax(-1))


@pytest.mark.parametrize("objective", ["kl", "tv"])
def test_a_token_without_weight_may_be_anything(objective: str) -> None:
    inputs = case(objective=objective, weights_KT=torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0]), **SMALL)
    exact = expected(inputs)
    h_s = inputs.h_s.clone()
    h_s[1], h_s[3] = float("nan"), float("inf")
    h_s.requires_grad_()
    found = linear_kl(h_s, inputs.h_t, inputs.w, **inputs.options)
    found.loss.backward()
    assert_close(found.loss.detach(), exact["loss"], torch.float32)
    assert h_s.grad is not None
    assert_close(h_s.grad, exact["gradient"], torch.float32)


@pytest.mark.parametrize("objective", ["kl", "tv", "lm"])
def test_saturated_rows(objective: str) -> None:
    """Logits of hundreds: probabilities of 0 and 1 in float32, and no NaN."""
    inputs = case(objective=objective, logit_size=300.0, **SMALL)
    h_s = inputs.h_s.clone().requires_grad_()
    found = linear_kl(h_s, inputs.h_t, inputs.w, **inputs.options)
    found.loss.backward()
    assert_close(found.per_token.detach(), expected(inputs)["per_token"], torch.float32, factor=30)
    assert h_s.grad is not None
    assert h_s.grad.isfinite().all()


@pytest.mark.parametrize("first", [0, 5, 127, 128, 200])
def test_the_first_of_equal_logits_is_the_top(first: int) -> None:
    w = torch.zeros(201, 24)
    w[first:, 0] = 1.0
    hidden = torch.ones(2, 24)
    found = linear_kl(hidden, hidden, w, metrics=True, teacher_top_T=torch.tensor([first, -1]))
    assert found.agreement is not None
    assert found.agreement.tolist() == [True, False]
    assert mean_embedding(hidden, w).top_N.tolist() == [first, first]


def test_overlap_with_the_whole_vocabulary() -> None:
    inputs = case(**SMALL)
    rows = torch.arange(0, 201, 3)
    whole = 0.77 * inputs.h_t.double() @ inputs.w.double().T
    q = (0.77 * inputs.h_s.double() @ inputs.w[rows].double().T).softmax(-1)
    for log_sum in (whole.logsumexp(-1).float(), whole.logsumexp(-1)):
        found = linear_kl(inputs.h_s, inputs.h_t, inputs.w[rows], **inputs.options, teacher_log_sum_T=log_sum)
        assert_close(found.overlap, torch.minimum(whole.softmax(-1)[:, rows], q).sum(-1), torch.float32)


def test_tensors_that_are_views() -> None:
    inputs = case(num_steps=2, bias_V=True, **SMALL)
    strided = {
        "h_s": torch.stack([inputs.h_s] * 2, -1)[..., 0],
        "h_t": inputs.h_t.t().contiguous().t(),
        "w": inputs.w.t().contiguous().t(),
        "bias_V": torch.stack([inputs.options["bias_V"]] * 2, -1)[..., 1],
    }
    assert not any(tensor.is_contiguous() for tensor in strided.values())
    options = {**inputs.options, "bias_V": strided.pop("bias_V")}
    check(linear_kl, Case(**strided, options=options))


def test_the_lm_loss_needs_no_teacher() -> None:
    inputs = case(objective="lm", **SMALL)
    inputs.options["labels_KT"][2] = -1
    h_s = inputs.h_s.clone().requires_grad_()
    found = linear_kl(h_s, None, inputs.w, scale=0.77, objective="lm", labels_KT=inputs.options["labels_KT"])
    found.loss.backward()
    exact = expected(inputs)
    assert_close(found.loss.detach(), exact["loss"], torch.float32)
    assert h_s.grad is not None
    assert_close(h_s.grad, exact["gradient"], torch.float32)


def test_the_same_inputs_give_the_same_bits() -> None:
    inputs = case(num_steps=2, dtype=torch.bfloat16, **SMALL)
    results = []
    for _ in range(2):
        h_s = inputs.h_s.clone().requires_grad_()
        found = linear_kl(h_s, inputs.h_t, inputs.w, **inputs.options)
        found.loss.backward()
        results.append((found.per_token.detach(), found.overlap, h_s.grad))
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))  # type: ignore[arg-type]
