"""Inputs of `linear_kl`, and what it must give: float64 autograd on the logits of all tokens, written out anew."""

# Shapes: K draft steps, T tokens, D hidden size, V vocabulary.

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tests.kernels.compare import assert_close, random
from vllm_mtp.kernels.ops import mean_embedding


class Case(NamedTuple):
    """Arguments of `linear_kl`: hidden states of both sides, the head, and the rest by name."""

    h_s: Tensor
    h_t: Tensor
    w: Tensor
    options: dict[str, Any]


def case(
    *,
    num_steps: int | None = None,
    num_tokens: int = 7,
    hidden_size: int = 24,
    vocab_size: int = 201,
    dtype: torch.dtype = torch.float32,
    objective: str = "kl",
    logit_size: float = 1.0,
    **options: Any,
) -> Case:
    """Random states that make logits of about this size, and labels where the objective needs them.

    At every other token the teacher says the same as the first draft step, and is surer: there they agree.
    """
    steps = () if num_steps is None else (num_steps,)
    size = logit_size**0.5 / hidden_size**0.25
    h_s = random(*steps, num_tokens, hidden_size, dtype=dtype, scale=size)
    h_t = random(num_tokens, hidden_size, dtype=dtype, scale=size, seed=1)
    h_t[::2] = 1.5 * h_s.view(-1, num_tokens, hidden_size)[0, ::2]
    w = random(vocab_size, hidden_size, dtype=dtype, scale=size, seed=2)
    if options.get("bias_V") is True:
        options["bias_V"] = random(vocab_size, dtype=dtype, seed=3)
    if objective == "lm":
        options["labels_KT"] = torch.randint(
            vocab_size, (*steps, num_tokens), generator=torch.Generator().manual_seed(4)
        )
    return Case(h_s, h_t, w, {"objective": objective, "scale": 0.77, "metrics": True, **options})


def expected(case: Case) -> dict[str, Tensor]:
    """Loss, per_token, overlap and agreement in float64, and the gradient of the loss."""
    options = dict(case.options)
    h_s, w = case.h_s.double().requires_grad_(), case.w.double()
    bias = options["bias_V"].double() if options.get("bias_V") is not None else 0.0
    soft_cap, factor = options.get("soft_cap"), options["scale"]

    def log_probabilities(hidden: Tensor) -> Tensor:
        logits = hidden @ w.T + bias
        return ((logits if soft_cap is None else soft_cap * torch.tanh(logits / soft_cap)) * factor).log_softmax(-1)

    log_q, log_p = log_probabilities(h_s), log_probabilities(case.h_t.double())
    overlap = torch.minimum(log_q.exp(), log_p.exp()).sum(-1)
    objective = options["objective"]
    value: Tensor
    if objective == "lm":
        labels = options["labels_KT"].expand(log_q.shape[:-1])
        value = -log_q.gather(-1, labels.clamp(min=0)[..., None]).squeeze(-1)
    else:
        values: dict[str, Callable[[], Tensor]] = {
            "kl": lambda: (log_p.exp() * (log_p - log_q)).sum(-1),
            "tv": lambda: (log_q.exp() - log_p.exp()).abs().sum(-1) / 2,
            "lk": lambda: -overlap.log(),
        }
        value = values[objective]()
    weights = options["weights_KT"].double() if options.get("weights_KT") is not None else torch.ones_like(value)
    weights = weights.expand(value.shape)
    if objective == "lm":
        weights = weights * (options["labels_KT"] >= 0)
    value = torch.where(weights == 0, 0.0, value)
    loss = (value * weights).sum() / weights.sum().clamp(min=1e-30)
    (gradient,) = torch.autograd.grad(loss, h_s)
    return {
        "loss": loss.detach(),
        "per_token": value.detach(),
        "overlap": torch.where(weights == 0, 0.0, overlap.detach()),
        "agreement": (log_q.argmax(-1) == log_p.argmax(-1)) & (weights != 0),
        "gradient": gradient,
    }


def check(function: Callable[..., Any], case: Case, *, factor: float = 1.0) -> None:
    """Fails where the function's results or its gradient are not those of `expected`."""
    h_s = case.h_s.clone().requires_grad_()
    found = function(h_s, case.h_t, case.w, **case.options)
    found.loss.backward()
    exact = expected(case)
    dtype = case.w.dtype
    for name in ("loss", "per_token", "overlap"):
        assert_close(getattr(found, name).detach(), exact[name], dtype, factor=factor)
    assert torch.equal(found.agreement, exact["agreement"])
    assert h_s.grad is not None
    assert h_s.grad.dtype == case.h_s.dtype
    assert_close(h_s.grad, exact["gradient"], dtype, factor=factor)


def check_without_rows(function: Callable[..., Any], objective: str) -> None:
    """Fails where rows with a bias of -inf, a whole block of them in front and some between, are not as if left out."""
    inputs = case(objective=objective, num_tokens=5, bias_V=True)
    rows = torch.cat([torch.arange(130, 150), torch.arange(155, 201)])
    bias = torch.full((201,), float("-inf"))
    bias[rows] = inputs.options["bias_V"][rows]
    few = Case(inputs.h_s, inputs.h_t, inputs.w[rows], {**inputs.options, "bias_V": bias[rows]})
    options = {**inputs.options, "bias_V": bias}
    if objective == "lm":
        few.options["labels_KT"] = torch.arange(5)
        options["labels_KT"] = rows[:5]
    exact = expected(few)
    h_s = inputs.h_s.clone().requires_grad_()
    found = function(h_s, inputs.h_t, inputs.w, **options)
    found.loss.backward()
    for name in ("loss", "per_token", "overlap"):
        assert_close(getattr(found, name).detach(), exact[name], torch.float32)
    assert torch.equal(found.agreement, exact["agreement"])
    assert h_s.grad is not None
    assert_close(h_s.grad, exact["gradient"], torch.float32)
    if objective == "kl":
        teacher = mean_embedding(inputs.h_t, inputs.w, bias_V=bias, scale=options["scale"])
        by_mean = function(inputs.h_s, teacher, inputs.w, **options)
        assert_close(by_mean.per_token, exact["per_token"], torch.float32)
