"""The loss from hidden states: `linear_kl` and `mean_embedding`, checked, and registered with torch."""

# Shapes: K draft steps, T tokens, N teacher tokens, D hidden size, V vocabulary.

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from vllm_mtp.kernels.common.precision import wide_dtype
from vllm_mtp.kernels.common.registration import register
from vllm_mtp.kernels.common.tables import loss_chunk_size
from vllm_mtp.kernels.linear_kl import reference
from vllm_mtp.kernels.linear_kl.objectives import OBJECTIVES
from vllm_mtp.kernels.linear_kl.reference import (
    FromMean,
    FromStates,
    MeanArguments,
    SoftmaxChunk,
    StatesArguments,
    Teacher,
    TeacherArguments,
)


class LinearKL(NamedTuple):
    """What `linear_kl` returns. Tokens are [T], or [K, T] where the drafter's hidden states are [K, T, D]."""

    loss: Tensor
    """Mean over all tokens, by their weights; 0 where all weights are 0. Differentiable."""
    per_token: Tensor
    """The objective of every token, 0 where its weight is 0. Differentiable."""
    overlap: Tensor | None
    """sum_v min(p_v, q_v): how often rejection sampling takes the drafted token; 0 where the weight is 0. None where it
    was not asked for, and with a `Teacher`."""
    agreement: Tensor | None
    """Whether drafter and teacher have the same most likely token; not where the weight is 0. None where it was not
    asked for."""


@dataclass(frozen=True)
class LinearLoss:
    """The public functions on an implementation: torch's operators, or plain PyTorch."""

    from_states: Callable[[StatesArguments], FromStates]
    from_mean: Callable[[MeanArguments], FromMean]
    teacher: Callable[[TeacherArguments], Teacher]

    def linear_kl(
        self,
        hidden_KTD: Tensor,
        teacher: Tensor | Teacher | None,
        weight_VD: Tensor,
        *,
        objective: str = "kl",
        weights_KT: Tensor | None = None,
        labels_KT: Tensor | None = None,
        bias_V: Tensor | None = None,
        scale: float = 1.0,
        soft_cap: float | None = None,
        teacher_log_sum_T: Tensor | None = None,
        teacher_top_T: Tensor | None = None,
        metrics: bool = False,
        chunk_size: int | None = None,
    ) -> LinearKL:
        """How far the drafter's distribution is from the teacher's, both on the same frozen head, from hidden states.

        z_s = scale cap(h_s W^T + b), cap(x) = soft_cap tanh(x / soft_cap); q = softmax(z_s), p likewise of the teacher;
        the objectives are those of objectives.py. With a `Teacher` of `mean_embedding`, KL in the form

            KL(p || q) = constant + logsumexp(z_s) - scale <e, h_s>      gradient scale (W^T q - e)

        Logits exist for `chunk_size` tokens at a time, never [T, V]. The gradient with respect to h_s is made in the
        same pass and is all that is kept for backward; head and teacher get none, and there is no second derivative.
        Nothing waits for the device, and the same inputs give the same bits.

        Args:
            hidden_KTD: the drafter's hidden states h_s, for K draft steps that share a teacher; or [T, D], for one.
            teacher: the teacher's hidden states, [T, D]; or what `mean_embedding` made of them, with the same bias and
                scale, for "kl" without a soft cap; None for "lm" without metrics.
            weight_VD: W, the head, frozen; a reduced one renormalizes both distributions over its rows.
            objective: one of OBJECTIVES.
            weights_KT: of the tokens in the mean, or [T]; 0 leaves a token out, whatever its hidden states are.
            labels_KT: for "lm": tokens as rows of the head, or [T]; one below 0 leaves its token out.
            bias_V: of the head; -inf takes a token out of both distributions, where there is no soft cap.
            scale: multiplies the logits, after the cap; 1 / temperature, where there is one.
            soft_cap: bounds the logits' magnitude.
            teacher_log_sum_T: logsumexp of the teacher's logits over the whole vocabulary where the head is reduced:
                overlap is then measured against the teacher's own probabilities, not the renormalized ones.
            teacher_top_T: the teacher's most likely token as a row of the head, -1 where the head does not have it,
                for agreement; None: the most likely one that the head has.
            metrics: give overlap and agreement too.
            chunk_size: tokens whose logits exist at a time; None: by device and size of the head.

        Returns:
            Loss and, of every token, its value and what was asked for.

        Raises:
            ValueError: for shapes, dtypes, devices or options that do not fit together.
        """
        _check(hidden_KTD.dim() in (2, 3), lambda: f"hidden: expected [T, D] or [K, T, D], got {_shape(hidden_KTD)}")
        _check_head(hidden_KTD, weight_VD, bias_V)
        steps_KTD = hidden_KTD if hidden_KTD.dim() == 3 else hidden_KTD[None]
        weights_KT, labels_KT = (_by_step(steps_KTD, *x) for x in (("weights", weights_KT), ("labels", labels_KT)))
        if labels_KT is not None:
            has_label_KT = labels_KT >= 0
            weights_KT = has_label_KT.float() if weights_KT is None else weights_KT * has_label_KT
        a = StatesArguments(
            hidden_KTD=steps_KTD,
            teacher_TD=teacher.detach() if isinstance(teacher, Tensor) else None,
            weight_VD=weight_VD.detach(),
            bias_V=None if bias_V is None else bias_V.detach(),
            labels_KT=None if labels_KT is None else labels_KT.long().clamp(min=0),
            counts_KT=None if weights_KT is None else weights_KT != 0,
            teacher_log_sum_T=teacher_log_sum_T,
            objective=objective,
            scale=scale,
            soft_cap=soft_cap,
            chunk_size=_chunk_size(chunk_size, hidden_KTD, weight_VD, mean_embedding=isinstance(teacher, Teacher)),
            metrics=metrics,
            with_gradient=hidden_KTD.requires_grad and torch.is_grad_enabled(),
        )
        _check_arguments(a, teacher, teacher_top_T)
        found = self._compare(a, teacher)
        if teacher_top_T is not None:
            found = found._replace(teacher_top_T=teacher_top_T)
        result = _result(found, weights_KT, a.metrics)
        return result if hidden_KTD.dim() == 3 else LinearKL(result.loss, *map(_first_step, result[1:]))

    def mean_embedding(
        self,
        hidden_TD: Tensor,
        weight_VD: Tensor,
        *,
        bias_V: Tensor | None = None,
        scale: float = 1.0,
        chunk_size: int | None = None,
    ) -> Teacher:
        """The teacher of `linear_kl` as its mean row of the head, e = W^T p: exact for KL, and computed once.

        It depends on the frozen target alone. Kept with the data, or shared by the K draft steps of a batch, it saves
        the teacher's product and softmax: 4 T D V operations of 6.

        Args:
            hidden_TD: the teacher's hidden states.
            weight_VD: the head, or its rows for a draft vocabulary; its logits without a soft cap.
            bias_V: of the head.
            scale: multiplies the logits.
            chunk_size: tokens whose logits exist at a time; None: by device and size of the head.

        Returns:
            Mean rows [T, D] in float32, constants [T], top tokens [T].

        Raises:
            ValueError: for shapes, dtypes or devices that do not fit together.
        """
        _check(hidden_TD.dim() == 2, lambda: f"hidden: expected [T, D], got {_shape(hidden_TD)}")
        _check_head(hidden_TD, weight_VD, bias_V)
        chunk_size = _chunk_size(chunk_size, hidden_TD, weight_VD, mean_embedding=True)
        with torch.no_grad():
            return self.teacher(TeacherArguments(hidden_TD, weight_VD, bias_V, scale, chunk_size))

    def _compare(self, a: StatesArguments, teacher: Tensor | Teacher | None) -> FromStates:
        if not isinstance(teacher, Teacher):
            return self.from_states(a)
        value_KT, top_KT, gradient_KTD = self.from_mean(
            MeanArguments(
                a.hidden_KTD, teacher.mean_ND, teacher.constant_N, a.weight_VD, a.bias_V, a.counts_KT,
                a.scale, a.chunk_size, a.with_gradient,
            )
        )  # fmt: skip
        return FromStates(value_KT, value_KT.new_empty(0), top_KT, teacher.top_N, gradient_KTD)


def _by_step(hidden_KTD: Tensor, name: str, given: Tensor | None) -> Tensor | None:
    """A number for each token of each draft step, which the steps may share."""
    if given is None:
        return None
    shape = hidden_KTD.shape[:2]
    fits = given.shape in (shape, shape[1:])
    _check(fits, lambda: f"{name}: expected {list(shape[1:])}, a number for each token, got {_shape(given)}")
    return given.expand(shape)


def _chunk_size(given: int | None, hidden: Tensor, weight_VD: Tensor, *, mean_embedding: bool) -> int:
    _check(given is None or given > 0, lambda: f"chunk_size: expected a positive number or None, got {given}")
    return given or loss_chunk_size(hidden.device, *weight_VD.shape[::-1], mean_embedding=mean_embedding)


def _result(found: FromStates, weights_KT: Tensor | None, metrics: bool) -> LinearKL:
    """The mean of the values, and what is measured where it counts."""
    if weights_KT is None:
        loss = found.value_KT.sum() / max(1, found.value_KT.numel())
    else:
        total = weights_KT.to(found.value_KT.dtype).sum()
        loss = (found.value_KT * weights_KT).sum() / torch.where(total == 0, 1, total)
    if not metrics:
        return LinearKL(loss, found.value_KT, None, None)
    agreement_KT = found.top_KT == found.teacher_top_T
    overlap_KT = found.overlap_KT.detach() if found.overlap_KT.dim() == 2 else None
    if weights_KT is not None:
        agreement_KT = agreement_KT & (weights_KT != 0)
        overlap_KT = None if overlap_KT is None else overlap_KT.masked_fill(weights_KT == 0, 0)
    return LinearKL(loss, found.value_KT, overlap_KT, agreement_KT)


def _first_step(measured_KT: Tensor | None) -> Any:
    return None if measured_KT is None else measured_KT[0]


def _shape(x: Tensor) -> list[int]:
    return list(x.shape)


def _check(condition: bool, message: Callable[[], str]) -> None:
    """The message is made when it is needed: torch.compile has no text for a number of tokens that may change."""
    if not condition:
        raise ValueError(message())


def _check_head(hidden: Tensor, weight_VD: Tensor, bias_V: Tensor | None) -> None:
    _check(weight_VD.dim() == 2, lambda: f"weight: expected [V, D], got {_shape(weight_VD)}")
    num_rows, size = weight_VD.shape
    _check(
        hidden.size(-1) == size,
        lambda: f"hidden: expected hidden states of size {size}, as the weight has, got {_shape(hidden)}",
    )
    _check(
        weight_VD.is_floating_point(),
        lambda: f"weight: expected a floating-point head, got {weight_VD.dtype}; dequantize it first",
    )
    _check(
        hidden.device == weight_VD.device,
        lambda: f"hidden: expected a tensor on {weight_VD.device}, as the weight, got {hidden.device}",
    )
    if bias_V is not None:
        fits = bias_V.shape == (num_rows,)
        _check(fits, lambda: f"bias: expected [{num_rows}], a number for each row of the head, got {_shape(bias_V)}")


def _check_arguments(a: StatesArguments, teacher: Tensor | Teacher | None, teacher_top_T: Tensor | None) -> None:
    objective, soft_cap = a.objective, a.soft_cap
    _check(objective in OBJECTIVES, lambda: f"objective: expected one of {', '.join(OBJECTIVES)}, got {objective!r}")
    _check(soft_cap is None or soft_cap > 0, lambda: f"soft_cap: expected a positive number or None, got {soft_cap}")
    _, num_tokens, size = a.hidden_KTD.shape
    if isinstance(teacher, Teacher):
        _check(objective == "kl", lambda: f"objective: a mean embedding has only 'kl', got {objective!r}")
        _check(soft_cap is None, lambda: "soft_cap: a mean embedding is exact for a linear head alone")
        _check(a.teacher_log_sum_T is None, lambda: "teacher_log_sum: a mean embedding measures no overlap")
        _check(
            teacher.mean_ND.shape == (num_tokens, size),
            lambda: f"teacher: expected a mean embedding of {num_tokens} tokens, got {_shape(teacher.mean_ND)}",
        )
    elif teacher is None:
        _check(
            objective == "lm" and not a.metrics,
            lambda: "teacher: expected the teacher's hidden states; 'lm' without metrics alone needs none",
        )
    else:
        _check(
            teacher.shape == (num_tokens, size),
            lambda: f"teacher: expected [{num_tokens}, {size}], a row for each token, got {_shape(teacher)}",
        )
    for name, given in (("teacher_log_sum", a.teacher_log_sum_T), ("teacher_top", teacher_top_T)):
        if given is not None and given.shape != (num_tokens,):
            raise ValueError(f"{name}: expected [{num_tokens}], a number for each token, got {_shape(given)}")
    _check((a.labels_KT is not None) == (objective == "lm"), lambda: "labels: expected with 'lm', and only there")


def _keep_gradient(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    """The values are differentiable, what is measured is not; the last result is the values' gradient."""
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(output[-1])
    ctx.num_inputs = len(inputs)


@torch.autograd.function.once_differentiable
def _scale_gradient(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
    (gradient_KTD,) = ctx.saved_tensors
    return (reference.scaled(gradient_KTD, grads[0]), *[None] * (int(ctx.num_inputs) - 1))


def _fake_teacher(a: TeacherArguments) -> Teacher:
    dtype = wide_dtype(a.weight_VD)
    return Teacher(
        a.hidden_TD.new_empty(a.hidden_TD.shape, dtype=dtype),
        a.hidden_TD.new_empty(a.hidden_TD.size(0), dtype=dtype),
        a.hidden_TD.new_empty(a.hidden_TD.size(0), dtype=torch.int64),
    )


def _fake_from_mean(a: MeanArguments) -> FromMean:
    return FromMean(
        a.hidden_KTD.new_empty(a.hidden_KTD.shape[:2], dtype=wide_dtype(a.weight_VD)),
        a.hidden_KTD.new_empty(a.hidden_KTD.shape[:2], dtype=torch.int64),
        a.hidden_KTD.new_empty(a.hidden_KTD.shape if a.with_gradient else (0,)),
    )


OPERATORS = LinearLoss(
    register(
        "linear_kl",
        reference.from_states,
        triton="linear_kl.kernel:from_states",
        fake=reference.empty_results,
        setup_context=_keep_gradient,
        backward=_scale_gradient,
    ),
    register(
        "linear_kl_mean",
        reference.from_mean,
        triton="linear_kl.kernel:from_mean",
        fake=_fake_from_mean,
        setup_context=_keep_gradient,
        backward=_scale_gradient,
    ),
    register(
        "mean_embedding",
        reference.mean_embedding,
        triton="linear_kl.kernel:mean_embedding",
        fake=_fake_teacher,
    ),
)

Compared = TypeVar("Compared", FromStates, FromMean)


def plain(chunk: SoftmaxChunk = reference.softmax_chunk) -> LinearLoss:
    """The public functions in plain PyTorch; `chunk` may be `softmax_chunk` compiled, which a schema has no way for."""

    def from_states(a: StatesArguments) -> FromStates:
        return _with_gradient(reference.from_states, a)

    def from_mean(a: MeanArguments) -> FromMean:
        return _with_gradient(partial(reference.from_mean, chunk=chunk), a)

    return LinearLoss(from_states, from_mean, reference.mean_embedding)


def _with_gradient(forward: Callable[[Any], Compared], a: StatesArguments | MeanArguments) -> Compared:
    with torch.no_grad():
        found = forward(a)
    if not a.with_gradient:
        return found
    return found._replace(value_KT=reference.with_known_gradient(found.value_KT, a.hidden_KTD, found.gradient_KTD))


PLAIN = plain()
