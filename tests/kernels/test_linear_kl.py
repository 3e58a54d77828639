"""`linear_kl` and `mean_embedding` on a CPU, where they are plain PyTorch, against float64 autograd on all logits.

Catches: a chunk boundary that drops or repeats a token, bias, scale or cap left out of one side or of the
gradient, a step scored against another step's teacher, a token without weight that counts or spoils the others,
logits of all tokens at once, a backward that loses what comes from above, an operator that torch.compile cannot see
through.
"""

# Shapes: K draft steps, T tokens, D hidden size, V vocabulary.

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.kernels.compare import assert_close, error, random
from tests.kernels.linear_kl_cases import case, check, check_without_rows, expected
from vllm_mtp.kernels import ops, reference
from vllm_mtp.kernels.common.tables import loss_chunk_size
from vllm_mtp.kernels.linear_kl.objectives import OBJECTIVES
from vllm_mtp.kernels.ops import linear_kl, mean_embedding

FUNCTIONS = {"operator": ops.linear_kl, "reference": reference.linear_kl}


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
@pytest.mark.parametrize("soft_cap", [None, 2.0])
@pytest.mark.parametrize("num_steps", [None, 3])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_against_float64_autograd(
    objective: str, num_steps: int | None, soft_cap: float | None, function: Callable[..., Any]
) -> None:
    weights = torch.tensor([1.0, 0.0, 2.0, 0.5, 0.0, 1.0, 3.0])
    options = {"soft_cap": soft_cap, "weights_KT": weights, "bias_V": True, "scale": 0.7, "chunk_size": 3}
    check(function, case(objective=objective, num_steps=num_steps, **options))


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_bias_takes_tokens_out(objective: str, function: Callable[..., Any]) -> None:
    check_without_rows(function, objective)


@pytest.mark.parametrize("num_tokens", [1, 6, 7])
@pytest.mark.parametrize("chunk_size", [1, 3, 7, None])
def test_chunks(num_tokens: int, chunk_size: int | None) -> None:
    check(linear_kl, case(num_tokens=num_tokens, num_steps=2, chunk_size=chunk_size))


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_dtypes(dtype: torch.dtype, objective: str) -> None:
    inputs = case(dtype=dtype, objective=objective)
    if dtype == torch.bfloat16 and objective in ("kl", "lm"):
        check(linear_kl, inputs, factor=2)
        return
    found, exact = linear_kl(*inputs[:3], **inputs.options), expected(inputs)
    if dtype == torch.bfloat16:  # a token with p close to q may fall to the other side, which moves the gradient alone
        assert_close(found.per_token, exact["per_token"], dtype)
        return
    assert found.loss.dtype == torch.float64
    assert error(found.per_token, exact["per_token"]) < 1e-12


@pytest.mark.parametrize("num_steps", [None, 3])
@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
@pytest.mark.parametrize("chunk_size", [3, None])
def test_mean_embedding_is_the_same_kl(
    num_steps: int | None, function: Callable[..., Any], chunk_size: int | None
) -> None:
    weights = random(*(() if num_steps is None else (num_steps,)), 7, seed=5).abs()
    inputs = case(num_steps=num_steps, bias_V=True, scale=0.7, weights_KT=weights)
    options = {**inputs.options, "chunk_size": chunk_size}
    teacher = mean_embedding(inputs.h_t, inputs.w, bias_V=options["bias_V"], scale=0.7, chunk_size=chunk_size)
    h_s = inputs.h_s.clone().requires_grad_()
    found = function(h_s, teacher, inputs.w, **options)
    found.loss.backward()
    exact = expected(inputs)
    assert_close(found.per_token.detach(), exact["per_token"], torch.float32)
    assert h_s.grad is not None
    assert_close(h_s.grad, exact["gradient"], torch.float32)
    assert torch.equal(found.agreement, exact["agreement"])
    assert found.overlap is None


def test_a_chunk_of_a_large_vocabulary_fits_into_memory() -> None:
    """Logits of both sides in float32 and a bfloat16 gradient: about 1/9 of what eager takes for 4,096 tokens."""
    gpu = torch.device("cuda")
    for hidden_size in (2048, 4096):
        assert loss_chunk_size(gpu, hidden_size, 151_936, mean_embedding=False) * 151_936 * 10 < 1.46 * 2**30
    assert loss_chunk_size(gpu, 2048, 32_768, mean_embedding=False) == 2048


def test_the_mean_row_and_the_constant() -> None:
    h_t, w, bias = random(5, 8), random(31, 8, seed=1), random(31, seed=2)
    found = mean_embedding(h_t, w, bias_V=bias, scale=1.7)
    log_p = ((h_t.double() @ w.double().T + bias) * 1.7).log_softmax(-1)
    p = log_p.exp()
    assert_close(found.mean_ND, p @ w.double(), torch.float32)
    assert_close(found.constant_N, (p * log_p).sum(-1) - 1.7 * (p @ bias.double()), torch.float32)
    assert torch.equal(found.top_N, p.argmax(-1))


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
@pytest.mark.parametrize("teacher_is_mean", [False, True])
def test_a_token_without_weight_may_be_anything(function: Callable[..., Any], teacher_is_mean: bool) -> None:
    inputs = case(weights_KT=torch.tensor([1.0, 0.0, 1.0, 1.0, 1.0, 0.0, 1.0]))
    exact = expected(inputs)
    h_s = inputs.h_s.clone()
    h_s[1], h_s[5] = float("nan"), float("inf")
    h_s.requires_grad_()
    teacher = mean_embedding(inputs.h_t, inputs.w, scale=0.77) if teacher_is_mean else inputs.h_t
    found = function(h_s, teacher, inputs.w, **inputs.options)
    found.loss.backward()
    assert_close(found.loss.detach(), exact["loss"], torch.float32)
    assert h_s.grad is not None
    assert_close(h_s.grad, exact["gradient"], torch.float32)
    assert not h_s.grad[[1, 5]].any()


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_labels_that_are_none(function: Callable[..., Any]) -> None:
    inputs = case(objective="lm", num_steps=2)
    inputs.options["labels_KT"][0, 2] = inputs.options["labels_KT"][1, 5] = -1
    check(function, inputs)
    nothing = linear_kl(inputs.h_s[0], None, inputs.w, objective="lm", labels_KT=torch.full((7,), -1))
    assert float(nothing.loss) == 0.0
    assert nothing.overlap is nothing.agreement is None


@pytest.mark.parametrize("objective", [name for name in OBJECTIVES if name != "lm"])
def test_the_same_states_are_at_distance_zero(objective: str) -> None:
    inputs = case(objective=objective, logit_size=30.0)
    h_s = inputs.h_t.clone().requires_grad_()
    found = linear_kl(h_s, inputs.h_t, inputs.w, **inputs.options)
    found.loss.backward()
    assert found.overlap is not None
    torch.testing.assert_close(found.per_token, torch.zeros(7), rtol=0, atol=2e-6)
    torch.testing.assert_close(found.overlap, torch.ones(7), rtol=0, atol=2e-6)
    assert h_s.grad is not None
    assert h_s.grad.abs().max() < 1e-6
    by_mean = linear_kl(inputs.h_t, mean_embedding(inputs.h_t, inputs.w, scale=0.77), inputs.w, scale=0.77)
    torch.testing.assert_close(by_mean.per_token, torch.zeros(7), rtol=0, atol=2e-5)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_saturated_rows(objective: str) -> None:
    """Logits of hundreds: probabilities of 0 and 1 in float32, and no NaN."""
    inputs = case(objective=objective, logit_size=300.0)
    h_s = inputs.h_s.clone().requires_grad_()
    found = linear_kl(h_s, inputs.h_t, inputs.w, **inputs.options)
    found.loss.backward()
    if objective == "lk":  # no draft is ever accepted: minus the logarithm of zero
        assert found.per_token.isinf().any()
    else:
        assert h_s.grad is not None
        assert h_s.grad.isfinite().all()
        assert error(found.per_token.detach(), expected(inputs)["per_token"]) < 1e-4


def test_what_comes_from_above_reaches_every_token() -> None:
    inputs = case(num_steps=2)
    exact = inputs.h_s.double().requires_grad_()
    upstream = random(2, 7, seed=9).double()
    log_q = (0.77 * exact @ inputs.w.double().T).log_softmax(-1)
    log_p = (0.77 * inputs.h_t.double() @ inputs.w.double().T).log_softmax(-1)
    ((log_p.exp() * (log_p - log_q)).sum(-1) * upstream).sum().backward()
    for function in FUNCTIONS.values():
        h_s = inputs.h_s.clone().requires_grad_()
        (function(h_s, inputs.h_t, inputs.w, scale=0.77).per_token * upstream).sum().backward()
        assert h_s.grad is not None
        assert exact.grad is not None
        assert_close(h_s.grad, exact.grad, torch.float32)


def test_overlap_with_the_whole_vocabulary() -> None:
    inputs = case()
    rows = torch.arange(0, 201, 3)
    whole = 0.77 * inputs.h_t.double() @ inputs.w.double().T
    q = (0.77 * inputs.h_s.double() @ inputs.w[rows].double().T).softmax(-1)
    for function in FUNCTIONS.values():
        found = function(
            inputs.h_s, inputs.h_t, inputs.w[rows], **inputs.options, teacher_log_sum_T=whole.logsumexp(-1).float()
        )
        assert_close(found.overlap, torch.minimum(whole.softmax(-1)[:, rows], q).sum(-1), torch.float32)


def test_agreement_with_a_top_token_that_is_given() -> None:
    """As a row of the head, or -1 where the head does not have it; with a mean embedding as well."""
    inputs = case(num_steps=2)
    own = (inputs.h_s.double() @ inputs.w.double().T).argmax(-1)
    top = own[0].clone()
    top[3:] = -1
    for function in FUNCTIONS.values():
        for teacher in (inputs.h_t, mean_embedding(inputs.h_t, inputs.w, scale=0.77)):
            found = function(inputs.h_s, teacher, inputs.w, **inputs.options, teacher_top_T=top)
            assert torch.equal(found.agreement, own == top)
            assert found.agreement[0].tolist() == [True] * 3 + [False] * 4


class Rows(TorchDispatchMode):
    """Watches every operation of torch: the most rows of a result as wide as the vocabulary, the head apart."""

    def __init__(self, vocab_size: int, head: Tensor) -> None:
        super().__init__()
        self.vocab_size, self.head, self.most = vocab_size, head.untyped_storage().data_ptr(), 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if not isinstance(tensor, Tensor) or self.vocab_size not in tensor.shape:
                continue
            if tensor.untyped_storage().data_ptr() != self.head:
                self.most = max(self.most, tensor.numel() // self.vocab_size)
        return result


@pytest.mark.parametrize("teacher_is_mean", [False, True])
def test_logits_exist_for_a_chunk(teacher_is_mean: bool) -> None:
    inputs = case(num_tokens=50, num_steps=2)
    teacher = reference.mean_embedding(inputs.h_t, inputs.w) if teacher_is_mean else inputs.h_t
    with Rows(201, inputs.w) as rows:
        reference.linear_kl(inputs.h_s.requires_grad_(), teacher, inputs.w, chunk_size=4).loss.backward()
    assert rows.most == 4


def test_the_operators_are_torchs() -> None:
    inputs, vllm_mtp = case(num_steps=2, bias_V=True), torch.ops.vllm_mtp
    h_s, bias = inputs.h_s.requires_grad_(), inputs.options["bias_V"]
    counts = torch.ones(2, 7, dtype=torch.bool)
    mean, constant, _ = vllm_mtp.mean_embedding(inputs.h_t, inputs.w, bias, 1.0, 3)
    torch.library.opcheck(vllm_mtp.mean_embedding.default, (inputs.h_t, inputs.w, bias, 1.0, 3))
    for metrics in (True, False):
        arguments = (h_s, inputs.h_t, inputs.w, bias, None, counts, None, "kl", 0.7, 3.0, 3, metrics, True)
        torch.library.opcheck(vllm_mtp.linear_kl.default, arguments)
    for with_gradient in (True, False):
        hidden = h_s if with_gradient else h_s.detach()
        arguments_of_mean = (hidden, mean, constant, inputs.w, None, counts, 0.7, 3, with_gradient)
        torch.library.opcheck(vllm_mtp.linear_kl_mean.default, arguments_of_mean)


@pytest.mark.parametrize("teacher_is_mean", [False, True])
def test_compiles_into_one_graph(teacher_is_mean: bool) -> None:
    inputs = case(num_steps=2)

    def loss(h_s: Tensor, h_t: Tensor, w: Tensor) -> Tensor:
        teacher = mean_embedding(h_t, w) if teacher_is_mean else h_t
        return linear_kl(2 * h_s, teacher, w, weights_KT=torch.ones(7)).loss

    gradients = []
    for function in (loss, torch.compile(loss, backend="aot_eager", fullgraph=True)):
        h_s = inputs.h_s.clone().requires_grad_()
        value = function(h_s, inputs.h_t, inputs.w)
        value.backward()
        gradients += [value.detach(), h_s.grad]
    assert torch.equal(gradients[0], gradients[2])
    assert gradients[1] is not None
    assert torch.equal(gradients[1], gradients[3])


@pytest.mark.parametrize("teacher_is_mean", [False, True])
def test_one_graph_for_any_number_of_tokens(teacher_is_mean: bool) -> None:
    def loss(h_s: Tensor, h_t: Tensor, w: Tensor) -> Tensor:
        return linear_kl(h_s, mean_embedding(h_t, w) if teacher_is_mean else h_t, w, metrics=not teacher_is_mean).loss

    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(loss, backend=counter, fullgraph=True, dynamic=True)
    counts = set()
    for num_tokens in (5, 6, 9):
        inputs = case(num_tokens=num_tokens, num_steps=2)
        assert_close(compiled(inputs.h_s, inputs.h_t, inputs.w), loss(inputs.h_s, inputs.h_t, inputs.w), torch.float32)
        counts.add(counter.frame_count)
    assert len(counts) == 1, "nothing was compiled after the first call"


def test_without_gradient_none_is_made() -> None:
    inputs = case()
    with torch.no_grad():
        found = linear_kl(inputs.h_s.requires_grad_(), inputs.h_t, inputs.w)
    assert not found.loss.requires_grad
    assert not linear_kl(inputs.h_s.detach(), inputs.h_t, inputs.w).loss.requires_grad


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": "jsd"}, "objective: expected one of kl, lm, tv, lk, got 'jsd'"),
        ({"hidden_KTD": torch.zeros(7)}, r"hidden: expected \[T, D\] or \[K, T, D\], got \[7\]"),
        ({"hidden_KTD": torch.zeros(7, 23)}, "hidden: expected hidden states of size 24"),
        ({"teacher": torch.zeros(6, 24)}, r"teacher: expected \[7, 24\], a row for each token, got \[6, 24\]"),
        ({"teacher": None}, "teacher: expected the teacher's hidden states; 'lm' without metrics alone needs none"),
        ({"weight_VD": torch.zeros(24)}, r"weight: expected \[V, D\], got \[24\]"),
        ({"weight_VD": torch.zeros(201, 24, dtype=torch.int8)}, "weight: expected a floating-point head.*dequantize"),
        ({"soft_cap": -1.0}, "soft_cap: expected a positive number or None, got -1.0"),
        ({"chunk_size": 0}, "chunk_size: expected a positive number or None, got 0"),
        ({"weights_KT": torch.ones(6)}, r"weights: expected \[7\], a number for each token, got \[6\]"),
        ({"bias_V": torch.ones(200)}, r"bias: expected \[201\], a number for each row of the head, got \[200\]"),
        ({"teacher_log_sum_T": torch.zeros(6)}, r"teacher_log_sum: expected \[7\], a number for each token, got \[6\]"),
        ({"labels_KT": torch.zeros(7)}, "labels: expected with 'lm', and only there"),
        ({"objective": "lm"}, "labels: expected with 'lm', and only there"),
        (
            {"hidden_KTD": torch.zeros(7, 24, device="meta")},
            "hidden: expected a tensor on cpu, as the weight, got meta",
        ),
    ],
)
def test_what_does_not_fit(changes: dict[str, Any], message: str) -> None:
    inputs = case()
    arguments = {"hidden_KTD": inputs.h_s, "teacher": inputs.h_t, "weight_VD": inputs.w} | changes
    with pytest.raises(ValueError, match=message):
        linear_kl(**arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": "tv"}, "objective: a mean embedding has only 'kl', got 'tv'"),
        ({"soft_cap": 30.0}, "soft_cap: a mean embedding is exact for a linear head alone"),
        ({"teacher_log_sum_T": torch.zeros(7)}, "teacher_log_sum: a mean embedding measures no overlap"),
    ],
)
def test_what_a_mean_embedding_cannot(options: dict[str, Any], message: str) -> None:
    inputs = case()
    teacher = mean_embedding(inputs.h_t, inputs.w)
    with pytest.raises(ValueError, match=message):
        linear_kl(inputs.h_s, teacher, inputs.w, **options)
    with pytest.raises(ValueError, match="teacher: expected a mean embedding of 6 tokens"):
        linear_kl(inputs.h_s[:6], teacher, inputs.w)
