"""`linear_kl` and `mean_embedding` in plain PyTorch, by chunks: what trains on a CPU, and the oracle of the kernels."""

# Shapes: K draft steps, T tokens, N hidden states of any kind, C of a chunk, D hidden size, V vocabulary.

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vllm_mtp.kernels.common.precision import wide, wide_dtype
from vllm_mtp.kernels.linear_kl.objectives import Distribution, value_and_gradient


class Teacher(NamedTuple):
    """What KL needs of a teacher whose head is linear and shared; two numbers and a vector of every token."""

    mean_ND: Tensor
    """e = W^T p: the mean row of the head under the teacher, float32."""
    constant_N: Tensor
    """sum_v p_v (log p_v - scale b_v): minus the entropy, less the mean bias."""
    top_N: Tensor
    """The teacher's most likely token."""


class TeacherArguments(NamedTuple):
    """Arguments of the operator that makes a teacher."""

    hidden_TD: Tensor
    weight_VD: Tensor
    bias_V: Tensor | None
    scale: float
    chunk_size: int


class StatesArguments(NamedTuple):
    """Arguments of the operator that compares drafter and teacher by their hidden states."""

    hidden_KTD: Tensor
    """The drafter's."""
    teacher_TD: Tensor | None
    """The teacher's; None for "lm" without metrics."""
    weight_VD: Tensor
    bias_V: Tensor | None
    labels_KT: Tensor | None
    """For "lm"."""
    counts_KT: Tensor | None
    """Which tokens count; None: all."""
    teacher_log_sum_T: Tensor | None
    objective: str
    scale: float
    soft_cap: float | None
    chunk_size: int
    metrics: bool
    with_gradient: bool


class MeanArguments(NamedTuple):
    """Arguments of the operator that compares the drafter's hidden states with a `Teacher`."""

    hidden_KTD: Tensor
    mean_TD: Tensor
    constant_T: Tensor
    weight_VD: Tensor
    bias_V: Tensor | None
    counts_KT: Tensor | None
    scale: float
    chunk_size: int
    with_gradient: bool


class FromStates(NamedTuple):
    """Figures of every token; what was not asked for is [0]."""

    value_KT: Tensor
    overlap_KT: Tensor
    top_KT: Tensor
    """The drafter's most likely token."""
    teacher_top_T: Tensor
    gradient_KTD: Tensor
    """Gradient of the values, with respect to the drafter's hidden states."""


class FromMean(NamedTuple):
    """Figures of every token; a gradient that was not asked for is [0]."""

    value_KT: Tensor
    top_KT: Tensor
    gradient_KTD: Tensor


SoftmaxChunk = Callable[[Tensor, Tensor, Tensor | None, float], tuple[Tensor, Tensor, Tensor]]


def softmax_chunk(
    hidden_CD: Tensor, weight_VD: Tensor, bias_V: Tensor | None, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """log-sum-exp of the logits, the most likely token and W^T softmax, [C], [C] and [C, D].

    Few passes over [C, V], and in bfloat16 half as wide ones: softmax computes in float32 inside and rounds once, as
    its product needs it. The log-sum-exp comes from the top token alone; rounding its probability costs it 0.004 at
    most, where logits of 16 are off by up to 0.06 already.
    """
    logits_CV = F.linear(hidden_CD, weight_VD, bias_V)
    if scale != 1.0:
        logits_CV = wide(logits_CV) * scale
    top_logit_C1, top_C1 = logits_CV.max(-1, keepdim=True)
    p_CV = logits_CV.softmax(-1)
    log_sum_C1 = wide(top_logit_C1) - wide(p_CV.gather(-1, top_C1)).log()
    mean_CD = wide(p_CV.to(weight_VD.dtype) @ weight_VD)
    return log_sum_C1.squeeze(-1), top_C1.squeeze(-1), mean_CD


def mean_embedding(a: TeacherArguments) -> Teacher:
    """The teacher at hidden states; p itself exists for a chunk.

    sum_v p_v log p_v - scale <b, p> = scale <e, h> - logsumexp: no pass over the vocabulary, and with this constant a
    drafter that says what the teacher says has a KL of zero, however e is rounded.
    """
    hidden_TD = a.hidden_TD.to(a.weight_VD.dtype)
    log_sum_T, top_T, mean_TD = _softmax_chunks(hidden_TD, a)
    return Teacher(mean_TD, a.scale * (mean_TD * wide(hidden_TD)).sum(-1) - log_sum_T, top_T)


def from_mean(a: MeanArguments, chunk: SoftmaxChunk = softmax_chunk) -> FromMean:
    """KL(p || q) = constant + logsumexp(z_s) - scale <e, h_s>, gradient scale (W^T q - e).

    Args:
        a: the operator's arguments.
        chunk: `softmax_chunk`, or that function compiled: it always gets chunks of one shape.
    """
    hidden_KTD = a.hidden_KTD.to(a.weight_VD.dtype)
    log_sum, top, expected = _softmax_chunks(hidden_KTD.flatten(0, 1), a, chunk)
    shape, mean_TD = a.hidden_KTD.shape[:2], a.mean_TD.to(expected.dtype)
    value_KT = a.constant_T + log_sum.view(shape) - a.scale * (mean_TD * wide(hidden_KTD)).sum(-1)
    gradient_KTD = a.hidden_KTD.new_empty(0)
    if a.with_gradient:
        gradient_KTD = (a.scale * (expected.view(a.hidden_KTD.shape) - mean_TD)).to(a.hidden_KTD.dtype)
    value_KT, gradient_KTD = masked(value_KT, gradient_KTD, a.counts_KT)
    return FromMean(value_KT, top.view(shape), gradient_KTD)


def from_states(a: StatesArguments) -> FromStates:
    """The objective and its gradient from the logits of both sides, which exist for a chunk.

    Products are rounded to the dtype of the head before they are widened.
    """
    found = empty_results(a)
    for start in range(0, a.hidden_KTD.size(1), a.chunk_size):
        part = slice(start, start + a.chunk_size)
        teacher = seen_p_CV = None
        if a.teacher_TD is not None:
            teacher_logits_CV, _ = _logits(a, a.teacher_TD[part])
            teacher = Distribution.from_logits(teacher_logits_CV)
            if a.metrics:
                found.teacher_top_T[part] = teacher_logits_CV.argmax(-1)
                seen_p_CV = teacher.p_CV
                if a.teacher_log_sum_T is not None:
                    seen_p_CV = (teacher_logits_CV - a.teacher_log_sum_T[part, None]).exp()
        for k, hidden_TD in enumerate(a.hidden_KTD):
            logits_CV, derivative_CV = _logits(a, hidden_TD[part])
            student = Distribution.from_logits(logits_CV)
            labels_C = None if a.labels_KT is None else a.labels_KT[k, part]
            found.value_KT[k, part], difference_CV = value_and_gradient(a.objective, student, teacher, labels_C)
            if a.metrics:
                assert seen_p_CV is not None
                found.top_KT[k, part] = logits_CV.argmax(-1)
                found.overlap_KT[k, part] = torch.minimum(seen_p_CV, student.p_CV).sum(-1)
            if a.with_gradient:
                if derivative_CV is not None:
                    difference_CV = difference_CV * derivative_CV
                gradient_CD = a.scale * wide(difference_CV.to(a.weight_VD.dtype) @ a.weight_VD)
                found.gradient_KTD[k, part] = gradient_CD.to(a.hidden_KTD.dtype)
    value_KT, gradient_KTD = masked(found.value_KT, found.gradient_KTD, a.counts_KT)
    return found._replace(value_KT=value_KT, gradient_KTD=gradient_KTD)


def empty_results(a: StatesArguments) -> FromStates:
    """What `from_states` fills: values always, the rest where it is asked for."""
    shape, dtype = a.hidden_KTD.shape[:2], wide_dtype(a.weight_VD)
    measured = shape if a.metrics else (0,)
    return FromStates(
        a.hidden_KTD.new_empty(shape, dtype=dtype),
        a.hidden_KTD.new_empty(measured, dtype=dtype),
        a.hidden_KTD.new_empty(measured, dtype=torch.int64),
        a.hidden_KTD.new_empty(measured[-1:], dtype=torch.int64),
        a.hidden_KTD.new_empty(a.hidden_KTD.shape if a.with_gradient else (0,)),
    )


def _logits(a: StatesArguments, hidden_CD: Tensor) -> tuple[Tensor, Tensor | None]:
    """Logits of a chunk, and the derivative of the soft cap."""
    raw_CV = wide(F.linear(hidden_CD.to(a.weight_VD.dtype), a.weight_VD, a.bias_V))
    if a.soft_cap is None:
        logits_CV = raw_CV * a.scale
        if a.bias_V is not None:  # of -inf, 0 (log p - log q) is NaN; of a finite number, 0
            logits_CV.clamp_(min=torch.finfo(logits_CV.dtype).min)
        return logits_CV, None
    tanh_CV = torch.tanh(raw_CV / a.soft_cap)
    return a.scale * a.soft_cap * tanh_CV, 1 - tanh_CV**2


def _softmax_chunks(
    hidden_ND: Tensor, a: TeacherArguments | MeanArguments, chunk: SoftmaxChunk = softmax_chunk
) -> tuple[Tensor, Tensor, Tensor]:
    """`softmax_chunk` of all rows."""
    parts = []
    for hidden_CD in hidden_ND.split(a.chunk_size):
        num_rows = len(hidden_CD)
        if chunk is not softmax_chunk:  # it may be compiled for one shape
            hidden_CD = F.pad(hidden_CD, (0, 0, 0, a.chunk_size - num_rows))
        parts.append([tensor[:num_rows] for tensor in chunk(hidden_CD, a.weight_VD, a.bias_V, a.scale)])
    log_sum_N, top_N, mean_ND = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    return log_sum_N, top_N, mean_ND


def masked(value_KT: Tensor, gradient_KTD: Tensor, counts_KT: Tensor | None) -> tuple[Tensor, Tensor]:
    """Zeros where a token does not count, whatever was there; a gradient that was not made stays [0]."""
    if counts_KT is None:
        return value_KT, gradient_KTD
    if gradient_KTD.dim() == 3:
        gradient_KTD = gradient_KTD.masked_fill(~counts_KT[..., None], 0)
    return value_KT.masked_fill(~counts_KT, 0), gradient_KTD


def with_known_gradient(value_KT: Tensor, hidden_KTD: Tensor, gradient_KTD: Tensor) -> Tensor:
    """The values, differentiable once in the hidden states: their gradient was made with them."""
    apply: Callable[..., Tensor] = _KnownGradient.apply
    return apply(hidden_KTD, value_KT, gradient_KTD)


class _KnownGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_KTD: Tensor, value_KT: Tensor, gradient_KTD: Tensor) -> Tensor:
        ctx.save_for_backward(gradient_KTD)
        return value_KT.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_KT: Tensor) -> tuple[Tensor, None, None]:
        (gradient_KTD,) = ctx.saved_tensors
        return scaled(gradient_KTD, grad_KT), None, None


def scaled(gradient_KTD: Tensor, grad_KT: Tensor) -> Tensor:
    """The gradient of hidden states that were given one gradient a token, [K, T]."""
    return (gradient_KTD * grad_KT[..., None]).to(gradient_KTD.dtype)
