"""The loss from hidden states: `linear_kl` and `mean_embedding`, checked, and registered with torch."""

# Shapes: K draft steps, T tokens, D hidden size, V vocabulary.

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vllm_mtp.kernels.common.precision import wide_dtype
from vllm_mtp.kernels.common.registration import register
from vllm_mtp.kernels.common.tables import loss_chunk
from vllm_mtp.kernels.linear_kl import reference
from vllm_mtp.kernels.linear_kl.objectives import OBJECTIVES
from vllm_mtp.kernels.linear_kl.reference import LinearKL, MeanTarget


def linear_kl(
    h_s: Tensor,
    h_t: Tensor | MeanTarget | None,
    w: Tensor,
    *,
    tau: float = 1.0,
    weights: Tensor | None = None,
    labels: Tensor | None = None,
    objective: str = "kl",
    chunk: int | None = None,
    logits_dtype: torch.dtype = torch.float32,
    metrics: bool = False,
    bias: Tensor | None = None,
    scale: float = 1.0,
    soft_cap: float | None = None,
    teacher_log_sum: Tensor | None = None,
    teacher_top: Tensor | None = None,
) -> LinearKL:
    """How far the drafter's distribution is from the teacher's, both on the same frozen head, from hidden states alone.

    z_s = (scale / tau) cap(h_s w^T + bias), cap(x) = soft_cap tanh(x / soft_cap); q = softmax(z_s), p likewise of h_t;
    the objectives are those of objectives.py. With a teacher of `mean_embedding`, KL in the form

        KL(p || q) = constant + logsumexp(z_s) - (scale / tau) <e, h_s>      gradient (scale / tau) (W^T q - e)

    Logits exist for `chunk` tokens at a time, never [T, V]. The gradient with respect to h_s is made in the same pass
    and is all that is kept for backward; w, bias and the teacher get none, and there is no second derivative. Nothing
    waits for the device, and the same inputs give the same bits.

    Args:
        h_s: the drafter's hidden states, [T, D], or [K, T, D] for K draft steps that share a teacher.
        h_t: the teacher's, [T, D]; or what `mean_embedding` made of them, with the same tau, bias and scale, for "kl"
            without a soft cap; None for "ce" without metrics.
        w: the head, [V, D], frozen; a reduced one renormalises both distributions over its rows.
        tau: temperature of both distributions.
        weights: of the tokens in the mean, [T] or [K, T]; 0 leaves a token out, whatever its hidden states are.
        labels: for "ce": tokens as rows of w, [T] or [K, T]; one below 0 leaves its token out.
        objective: one of OBJECTIVES.
        chunk: tokens whose logits exist at a time; None: by device and size of the head.
        logits_dtype: of the logits between product and softmax. bfloat16 saves a little time and costs accuracy where
            drafter and teacher are close.
        metrics: give accept and top1_agree too.
        bias: of the head, [V]; -inf takes a token out of both distributions, where there is no soft cap.
        scale: multiplies the logits, after the cap.
        soft_cap: bounds the logits' magnitude.
        teacher_log_sum: [T], logsumexp of the teacher's logits over the whole vocabulary where w is reduced: accept is
            then measured against the teacher's own probabilities, not the renormalised ones.
        teacher_top: [T], the teacher's most likely token as a row of w, -1 where w does not have it, for top1_agree;
            None: the most likely one that w has.

    Returns:
        Loss and, of every token, its value and what was asked for.

    Raises:
        ValueError: for shapes, dtypes, devices or options that do not fit together.
    """
    _check_linear_kl(
        h_s, h_t, w, tau, weights, labels, objective, chunk, metrics, bias, soft_cap, teacher_log_sum, teacher_top
    )
    with_gradient = h_s.requires_grad and torch.is_grad_enabled()
    h_s_KTD, weights_KT, labels_KT = reference.by_step(h_s, weights, labels, objective)
    counts_KT = None if weights_KT is None else weights_KT != 0
    w, bias = w.detach(), None if bias is None else bias.detach()
    if isinstance(h_t, MeanTarget):
        chunk = chunk or loss_chunk(h_s.device, h_s.size(-1), w.size(0), mean_embedding=True)
        value_KT, top_KT, _ = _linear_kl_mean(
            h_s_KTD, h_t.mean_ND, h_t.constant_N, w, bias, counts_KT, scale / tau, chunk, with_gradient, logits_dtype
        )
        accept_KT, teacher_top_T = None, h_t.top_N
    else:
        chunk = chunk or loss_chunk(h_s.device, h_s.size(-1), w.size(0), mean_embedding=False)
        value_KT, accept_KT, top_KT, teacher_top_T, _ = _linear_kl(
            h_s_KTD, None if h_t is None else h_t.detach(), w, bias, labels_KT, counts_KT, teacher_log_sum,
            objective, scale / tau, soft_cap, chunk, metrics, with_gradient, logits_dtype,
        )  # fmt: skip
    teacher_top_T = teacher_top_T if teacher_top is None else teacher_top
    return reference.linear_kl_result(h_s, value_KT, weights_KT, accept_KT, top_KT, teacher_top_T, metrics)


def mean_embedding(
    h_t: Tensor,
    w: Tensor,
    tau: float = 1.0,
    *,
    bias: Tensor | None = None,
    scale: float = 1.0,
    chunk: int | None = None,
) -> MeanTarget:
    """The teacher of `linear_kl` as its mean row of the head, e = W^T p: exact for KL, and computed once.

    It depends on the frozen target alone. Kept with the data, or shared by the K draft steps of a batch, it saves the
    teacher's product and softmax: 4 T D V operations of 6.

    Args:
        h_t: the teacher's hidden states, [T, D].
        w: the head, [V, D], or its rows for a draft vocabulary; its logits without a soft cap.
        tau: temperature.
        bias: of the head, [V].
        scale: multiplies the logits.
        chunk: tokens whose logits exist at a time; None: by device and size of the head.

    Returns:
        Mean rows [T, D] in float32, constants [T], top tokens [T].

    Raises:
        ValueError: for shapes, dtypes or devices that do not fit together.
    """
    _check_head(h_t, w, bias, "h_t")
    _check(h_t.dim() == 2, lambda: f"h_t: expected [T, D], got {list(h_t.shape)}")
    _check(tau > 0, lambda: f"tau: expected a positive number, got {tau}")
    chunk = chunk or loss_chunk(h_t.device, h_t.size(-1), w.size(0), mean_embedding=True)
    with torch.no_grad():
        return MeanTarget(*_mean_embedding(h_t, w, bias, scale / tau, chunk))


def _check(condition: bool, message: Callable[[], str]) -> None:
    """The message is made when it is needed: torch.compile has no text for a number of tokens that may change."""
    if not condition:
        raise ValueError(message())


def _check_head(hidden: Tensor, w: Tensor, bias: Tensor | None, name: str) -> None:
    _check(w.dim() == 2, lambda: f"w: expected [V, D], got {list(w.shape)}")
    _check(
        hidden.size(-1) == w.size(1),
        lambda: f"{name}: expected hidden states of size {w.size(1)}, as w has, got {list(hidden.shape)}",
    )
    _check(w.is_floating_point(), lambda: f"w: expected a floating-point head, got {w.dtype}; dequantise it first")
    _check(hidden.device == w.device, lambda: f"{name}: expected a tensor on {w.device}, as w, got {hidden.device}")
    if bias is not None:
        fits = bias.shape == w.shape[:1]
        _check(fits, lambda: f"bias: expected [{w.size(0)}], a number for each row of w, got {list(bias.shape)}")


def _check_linear_kl(
    h_s: Tensor,
    h_t: Tensor | MeanTarget | None,
    w: Tensor,
    tau: float,
    weights: Tensor | None,
    labels: Tensor | None,
    objective: str,
    chunk: int | None,
    metrics: bool,
    bias: Tensor | None,
    soft_cap: float | None,
    teacher_log_sum: Tensor | None,
    teacher_top: Tensor | None,
) -> None:
    _check(objective in OBJECTIVES, lambda: f"objective: expected one of {', '.join(OBJECTIVES)}, got {objective!r}")
    _check(h_s.dim() in (2, 3), lambda: f"h_s: expected [T, D] or [K, T, D], got {list(h_s.shape)}")
    _check_head(h_s, w, bias, "h_s")
    _check(tau > 0, lambda: f"tau: expected a positive number, got {tau}")
    _check(soft_cap is None or soft_cap > 0, lambda: f"soft_cap: expected a positive number or None, got {soft_cap}")
    _check(chunk is None or chunk > 0, lambda: f"chunk: expected a positive number of tokens or None, got {chunk}")
    shape, num_tokens = h_s.shape[:-1], h_s.size(-2)
    if isinstance(h_t, MeanTarget):
        _check(
            objective == "kl", lambda: f"objective: a mean-embedding teacher has only 'kl', got {objective!r}; give h_t"
        )
        _check(soft_cap is None, lambda: "soft_cap: a mean embedding is exact for a linear head alone; give h_t")
        _check(teacher_log_sum is None, lambda: "teacher_log_sum: a mean embedding measures no acceptance; give h_t")
        _check(
            h_t.mean_ND.shape == (num_tokens, w.size(1)),
            lambda: f"h_t: expected a mean embedding of {num_tokens} tokens, got {list(h_t.mean_ND.shape)}",
        )
    elif h_t is None:
        _check(
            objective == "ce" and not metrics,
            lambda: "h_t: expected the teacher's hidden states; 'ce' alone needs none",
        )
    else:
        _check(
            h_t.shape == (num_tokens, w.size(1)),
            lambda: f"h_t: expected [{num_tokens}, {w.size(1)}], a row for each token of h_s, got {list(h_t.shape)}",
        )
    for name, tensor in (("teacher_log_sum", teacher_log_sum), ("teacher_top", teacher_top)):
        if tensor is not None and tensor.shape != (num_tokens,):
            raise ValueError(f"{name}: expected [{num_tokens}], a number for each token, got {list(tensor.shape)}")
    _check((labels is not None) == (objective == "ce"), lambda: "labels: expected with objective 'ce', and only there")
    for name, tensor in (("weights", weights), ("labels", labels)):
        if tensor is not None and tensor.shape not in (shape, shape[-1:]):
            raise ValueError(f"{name}: expected {list(shape)}, a number for each token, got {list(tensor.shape)}")


def _keep_gradient(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    """The values are differentiable, what is measured is not; the last result is the values' gradient."""
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(output[-1])
    ctx.num_inputs = len(inputs)


@torch.autograd.function.once_differentiable
def _scale_gradient(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
    (gradient_KTD,) = ctx.saved_tensors
    return (reference.scaled(gradient_KTD, grads[0]), *[None] * (int(ctx.num_inputs) - 1))


def _fake_mean_embedding(
    h_t: Tensor, w: Tensor, bias: Tensor | None, scale: float, chunk: int
) -> tuple[Tensor, Tensor, Tensor]:
    wide = wide_dtype(w)
    return (
        torch.empty_like(h_t, dtype=wide, memory_format=torch.contiguous_format),
        h_t.new_empty(h_t.size(0), dtype=wide),
        h_t.new_empty(h_t.size(0), dtype=torch.int64),
    )


def _fake_linear_kl(
    h_s: Tensor,
    h_t: Tensor | None,
    w: Tensor,
    bias: Tensor | None,
    labels: Tensor | None,
    counts: Tensor | None,
    teacher_log_sum: Tensor | None,
    objective: str,
    scale: float,
    soft_cap: float | None,
    chunk: int,
    metrics: bool,
    with_gradient: bool,
    logits_dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    measured = h_s.shape[:2] if metrics else (0,)
    return (
        h_s.new_empty(h_s.shape[:2], dtype=wide_dtype(w)),
        h_s.new_empty(measured, dtype=wide_dtype(w)),
        h_s.new_empty(measured, dtype=torch.int64),
        h_s.new_empty(measured[-1:], dtype=torch.int64),
        h_s.new_empty(h_s.shape if with_gradient else (0,)),
    )


def _fake_linear_kl_mean(
    h_s: Tensor,
    mean: Tensor,
    constant: Tensor,
    w: Tensor,
    bias: Tensor | None,
    counts: Tensor | None,
    scale: float,
    chunk: int,
    with_gradient: bool,
    logits_dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        h_s.new_empty(h_s.shape[:2], dtype=wide_dtype(w)),
        h_s.new_empty(h_s.shape[:2], dtype=torch.int64),
        h_s.new_empty(h_s.shape if with_gradient else (0,)),
    )


_mean_embedding = register(
    "mean_embedding",
    "(Tensor h_t, Tensor w, Tensor? bias, float scale, int chunk) -> (Tensor, Tensor, Tensor)",
    reference=reference.mean_embedding_forward,
    triton="linear_kl.kernel:mean_embedding",
    fake=_fake_mean_embedding,
)
_linear_kl = register(
    "linear_kl",
    "(Tensor h_s, Tensor? h_t, Tensor w, Tensor? bias, Tensor? labels, Tensor? counts, Tensor? teacher_log_sum, "
    "str objective, float scale, float? soft_cap, int chunk, bool metrics, bool with_gradient, "
    "ScalarType logits_dtype) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    reference=reference.linear_kl_forward,
    triton="linear_kl.kernel:linear_kl",
    fake=_fake_linear_kl,
    setup_context=_keep_gradient,
    backward=_scale_gradient,
)
_linear_kl_mean = register(
    "linear_kl_mean",
    "(Tensor h_s, Tensor mean, Tensor constant, Tensor w, Tensor? bias, Tensor? counts, float scale, int chunk, "
    "bool with_gradient, ScalarType logits_dtype) -> (Tensor, Tensor, Tensor)",
    reference=reference.linear_kl_mean_forward,
    triton="linear_kl.kernel:linear_kl_mean",
    fake=_fake_linear_kl_mean,
    setup_context=_keep_gradient,
    backward=_scale_gradient,
)
