"""`linear_kl` and `mean_embedding` in plain PyTorch, by chunks: what trains on a CPU, and the oracle of the kernels."""

# Shapes: K draft steps, T tokens, N hidden states of any kind, C of a chunk, D hidden size, V vocabulary.

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vllm_mtp.kernels.common.precision import wide, wide_dtype
from vllm_mtp.kernels.common.tables import loss_chunk
from vllm_mtp.kernels.linear_kl.objectives import Distribution, value_and_gradient


class MeanTarget(NamedTuple):
    """What KL needs of a teacher whose head is linear and shared; two numbers and a vector of every token."""

    mean_ND: Tensor
    """e = W^T p: the mean row of the head under the teacher, float32."""
    constant_N: Tensor
    """sum_v p_v (log p_v - scale b_v / tau): minus the entropy, less the mean bias."""
    top_N: Tensor = None  # type: ignore[assignment]
    """The teacher's most likely token; without it, nothing is said of agreement."""

    @property
    def e(self) -> Tensor:
        """`mean_ND`."""
        return self.mean_ND

    @property
    def neg_entropy(self) -> Tensor:
        """`constant_N`, which is sum_v p_v log p_v where the head has no bias."""
        return self.constant_N


class LinearKL(NamedTuple):
    """What `linear_kl` returns. Tokens are [T], or [K, T] where the drafter's hidden states are [K, T, D]."""

    loss: Tensor
    """Mean over all tokens, by their weights; 0 where all weights are 0. Differentiable."""
    per_token: Tensor
    """The objective of every token, 0 where its weight is 0. Differentiable."""
    accept: Tensor | None
    """sum_v min(p_v, q_v): how often rejection sampling takes the drafted token; 0 where the weight is 0. None where it
    was not asked for, and in the mean-embedding form."""
    top1_agree: Tensor | None
    """Whether drafter and teacher have the same most likely token; not where the weight is 0. None where it was not
    asked for, or the teacher's is not known."""


SoftmaxChunk = Callable[[Tensor, Tensor, Tensor | None, float], tuple[Tensor, Tensor, Tensor]]


def mean_embedding(
    h_t: Tensor,
    w: Tensor,
    tau: float = 1.0,
    *,
    bias: Tensor | None = None,
    scale: float = 1.0,
    chunk: int | None = None,
) -> MeanTarget:
    """`ops.mean_embedding`."""
    chunk = chunk or loss_chunk(h_t.device, h_t.size(-1), w.size(0), mean_embedding=True)
    with torch.no_grad():
        return MeanTarget(*mean_embedding_forward(h_t, w, bias, scale / tau, chunk))


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
    """`ops.linear_kl`. Products are rounded to the dtype of w before they are widened, whatever `logits_dtype` says."""
    if isinstance(h_t, MeanTarget):
        h_t = h_t if teacher_top is None else h_t._replace(top_N=teacher_top)
        return linear_kl_of_mean(
            h_s, h_t, w, tau=tau, weights=weights, chunk=chunk, metrics=metrics, bias=bias, scale=scale
        )
    chunk = chunk or loss_chunk(h_s.device, h_s.size(-1), w.size(0), mean_embedding=False)
    with_gradient = h_s.requires_grad and torch.is_grad_enabled()
    h_s_KTD, weights_KT, labels_KT = by_step(h_s, weights, labels, objective)
    counts_KT = None if weights_KT is None else weights_KT != 0
    with torch.no_grad():
        value_KT, accept_KT, top_KT, teacher_top_T, gradient_KTD = linear_kl_forward(
            h_s_KTD, h_t, w, bias, labels_KT, counts_KT, teacher_log_sum,
            objective, scale / tau, soft_cap, chunk, metrics, with_gradient, logits_dtype,
        )  # fmt: skip
    if with_gradient:
        value_KT = with_known_gradient(value_KT, h_s_KTD, gradient_KTD)
    teacher_top_T = teacher_top_T if teacher_top is None else teacher_top
    return linear_kl_result(h_s, value_KT, weights_KT, accept_KT, top_KT, teacher_top_T, metrics)


def linear_kl_of_mean(
    h_s: Tensor,
    teacher: MeanTarget,
    w: Tensor,
    *,
    tau: float = 1.0,
    weights: Tensor | None = None,
    chunk: int | None = None,
    metrics: bool = False,
    bias: Tensor | None = None,
    scale: float = 1.0,
    softmax_chunk: SoftmaxChunk | None = None,
) -> LinearKL:
    """`linear_kl` with a teacher of `mean_embedding`; `softmax_chunk` may be that function compiled.

    The operator cannot take it: a schema has no functions.
    """
    chunk = chunk or loss_chunk(h_s.device, h_s.size(-1), w.size(0), mean_embedding=True)
    with_gradient = h_s.requires_grad and torch.is_grad_enabled()
    h_s_KTD, weights_KT, _ = by_step(h_s, weights, None, "kl")
    counts_KT = None if weights_KT is None else weights_KT != 0
    with torch.no_grad():
        value_KT, top_KT, gradient_KTD = linear_kl_mean_forward(
            h_s_KTD, teacher.mean_ND, teacher.constant_N, w, bias, counts_KT,
            scale / tau, chunk, with_gradient, function=softmax_chunk,
        )  # fmt: skip
    if with_gradient:
        value_KT = with_known_gradient(value_KT, h_s_KTD, gradient_KTD)
    return linear_kl_result(h_s, value_KT, weights_KT, None, top_KT, teacher.top_N, metrics)


def by_step(
    h_s: Tensor, weights: Tensor | None, labels: Tensor | None, objective: str
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Hidden states, weights and labels for K draft steps, K = 1 where there is no such dimension.

    A label below 0 is none: its token weighs nothing.
    """
    h_s_KTD = h_s if h_s.dim() == 3 else h_s[None]
    shape = h_s_KTD.shape[:2]
    weights_KT = None if weights is None else weights.expand(shape)
    if objective != "ce" or labels is None:
        return h_s_KTD, weights_KT, None
    labels_KT = labels.long().expand(shape)
    has_label_KT = labels_KT >= 0
    weights_KT = has_label_KT.float() if weights_KT is None else weights_KT * has_label_KT
    return h_s_KTD, weights_KT, labels_KT.clamp(min=0)


def linear_kl_result(
    h_s: Tensor,
    value_KT: Tensor,
    weights_KT: Tensor | None,
    accept_KT: Tensor | None,
    top_KT: Tensor,
    teacher_top_T: Tensor | None,
    metrics: bool,
) -> LinearKL:
    """The mean, and everything without the dimension of steps where the hidden states have none."""
    if weights_KT is None:
        loss = value_KT.sum() / max(1, value_KT.numel())
    else:
        total = weights_KT.to(value_KT.dtype).sum()
        loss = (value_KT * weights_KT).sum() / torch.where(total == 0, 1, total)

    def shaped(tensor_KT: Tensor) -> Tensor:
        return tensor_KT if h_s.dim() == 3 else tensor_KT[0]

    if not metrics:
        return LinearKL(loss, shaped(value_KT), None, None)
    accept = agree = None
    if accept_KT is not None:
        accept_KT = accept_KT.detach()
        accept = shaped(accept_KT if weights_KT is None else accept_KT.masked_fill(weights_KT == 0, 0))
    if teacher_top_T is not None:
        agree_KT = top_KT == teacher_top_T
        agree = shaped(agree_KT if weights_KT is None else agree_KT & (weights_KT != 0))
    return LinearKL(loss, shaped(value_KT), accept, agree)


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


def mean_embedding_forward(
    h_t_TD: Tensor, w_VD: Tensor, bias_V: Tensor | None, scale: float, chunk: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean row, constant and top token of the teacher; p itself exists for a chunk.

    sum_v p_v log p_v - scale <b, p> = scale <e, h> - logsumexp: no pass over the vocabulary, and with this constant a
    drafter that says what the teacher says has a KL of zero, however e is rounded.
    """
    hidden_TD = h_t_TD.to(w_VD.dtype)
    log_sum_T, top_T, mean_TD = _softmax_chunks(hidden_TD, w_VD, bias_V, scale, chunk)
    return mean_TD, scale * (mean_TD * wide(hidden_TD)).sum(-1) - log_sum_T, top_T


def linear_kl_mean_forward(
    h_s_KTD: Tensor,
    mean_TD: Tensor,
    constant_T: Tensor,
    w_VD: Tensor,
    bias_V: Tensor | None,
    counts_KT: Tensor | None,
    scale: float,
    chunk: int,
    with_gradient: bool,
    logits_dtype: torch.dtype = torch.float32,
    function: SoftmaxChunk | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Value [K, T], the drafter's top token [K, T] and gradient [K, T, D], or [0] if that is not wanted."""
    hidden_KTD = h_s_KTD.to(w_VD.dtype)
    log_sum, top, expected = _softmax_chunks(hidden_KTD.flatten(0, 1), w_VD, bias_V, scale, chunk, function)
    shape, mean_TD = h_s_KTD.shape[:2], mean_TD.to(expected.dtype)
    value_KT = constant_T + log_sum.view(shape) - scale * (mean_TD * wide(hidden_KTD)).sum(-1)
    gradient_KTD = h_s_KTD.new_empty(0)
    if with_gradient:
        gradient_KTD = (scale * (expected.view(h_s_KTD.shape) - mean_TD)).to(h_s_KTD.dtype)
    if counts_KT is not None:
        value_KT, gradient_KTD = masked(value_KT, gradient_KTD, counts_KT)
    return value_KT, top.view(shape), gradient_KTD


def linear_kl_forward(
    h_s_KTD: Tensor,
    h_t_TD: Tensor | None,
    w_VD: Tensor,
    bias_V: Tensor | None,
    labels_KT: Tensor | None,
    counts_KT: Tensor | None,
    teacher_log_sum_T: Tensor | None,
    objective: str,
    scale: float,
    soft_cap: float | None,
    chunk: int,
    metrics: bool,
    with_gradient: bool,
    logits_dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Value, acceptance and the drafter's top token [K, T], the teacher's [T], gradient [K, T, D]; [0]: not wanted."""
    num_steps, num_tokens, _ = h_s_KTD.shape
    value_KT = h_s_KTD.new_empty(num_steps, num_tokens, dtype=wide_dtype(w_VD))
    accept_KT = h_s_KTD.new_empty((num_steps, num_tokens) if metrics else (0,), dtype=wide_dtype(w_VD))
    top_KT = h_s_KTD.new_empty((num_steps, num_tokens) if metrics else (0,), dtype=torch.int64)
    teacher_top_T = h_s_KTD.new_empty((num_tokens,) if metrics else (0,), dtype=torch.int64)
    gradient_KTD = h_s_KTD.new_empty(h_s_KTD.shape if with_gradient else (0,))

    def logits(hidden_CD: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits, and the derivative of the soft cap."""
        raw_CV = wide(F.linear(hidden_CD.to(w_VD.dtype), w_VD, bias_V))
        if soft_cap is None:
            logits_CV = raw_CV * scale
            if bias_V is not None:  # of -inf, 0 (log p - log q) is NaN; of a finite number, 0
                logits_CV.clamp_(min=torch.finfo(logits_CV.dtype).min)
            return logits_CV, None
        tanh_CV = torch.tanh(raw_CV / soft_cap)
        return scale * soft_cap * tanh_CV, 1 - tanh_CV**2

    for start in range(0, num_tokens, chunk):
        part = slice(start, min(start + chunk, num_tokens))
        teacher = seen_p_CV = None
        if h_t_TD is not None:
            teacher_logits_CV, _ = logits(h_t_TD[part])
            teacher = Distribution.of_logits(teacher_logits_CV)
            if metrics:
                teacher_top_T[part] = teacher_logits_CV.argmax(-1)
                seen_p_CV = teacher.p_CV
                if teacher_log_sum_T is not None:
                    seen_p_CV = (teacher_logits_CV - teacher_log_sum_T[part, None]).exp()
        for k in range(num_steps):
            logits_CV, derivative_CV = logits(h_s_KTD[k, part])
            student = Distribution.of_logits(logits_CV)
            labels_C = None if labels_KT is None else labels_KT[k, part]
            value_KT[k, part], difference_CV = value_and_gradient(objective, student, teacher, labels_C)
            if metrics:
                assert seen_p_CV is not None
                top_KT[k, part] = logits_CV.argmax(-1)
                accept_KT[k, part] = torch.minimum(seen_p_CV, student.p_CV).sum(-1)
            if with_gradient:
                if derivative_CV is not None:
                    difference_CV = difference_CV * derivative_CV
                gradient_KTD[k, part] = (scale * wide(difference_CV.to(w_VD.dtype) @ w_VD)).to(h_s_KTD.dtype)
    if counts_KT is not None:
        value_KT, gradient_KTD = masked(value_KT, gradient_KTD, counts_KT)
    return value_KT, accept_KT, top_KT, teacher_top_T, gradient_KTD


def _softmax_chunks(
    hidden_ND: Tensor,
    w_VD: Tensor,
    bias_V: Tensor | None,
    scale: float,
    chunk: int,
    function: SoftmaxChunk | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """`softmax_chunk` of all rows. A given function always gets chunks of one shape: it may be compiled for it."""
    parts = []
    for hidden_CD in hidden_ND.split(chunk):
        if function is None:
            parts.append(softmax_chunk(hidden_CD, w_VD, bias_V, scale))
            continue
        padded_CD = F.pad(hidden_CD, (0, 0, 0, chunk - len(hidden_CD)))
        log_sum_C, top_C, mean_CD = function(padded_CD, w_VD, bias_V, scale)
        parts.append((log_sum_C[: len(hidden_CD)], top_C[: len(hidden_CD)], mean_CD[: len(hidden_CD)]))
    log_sum_N, top_N, mean_ND = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    return log_sum_N, top_N, mean_ND


def masked(value_KT: Tensor, gradient_KTD: Tensor, counts_KT: Tensor) -> tuple[Tensor, Tensor]:
    """Zeros where a token does not count, whatever was there; a gradient that was not made stays [0]."""
    if gradient_KTD.dim() == 3:
        gradient_KTD = gradient_KTD.masked_fill(~counts_KT[..., None], 0)
    return value_KT.masked_fill(~counts_KT, 0), gradient_KTD


def with_known_gradient(value_KT: Tensor, h_s_KTD: Tensor, gradient_KTD: Tensor) -> Tensor:
    """The values, differentiable once in the hidden states: their gradient was made with them."""
    apply: Callable[..., Tensor] = _KnownGradient.apply
    return apply(h_s_KTD, value_KT, gradient_KTD)


class _KnownGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h_s_KTD: Tensor, value_KT: Tensor, gradient_KTD: Tensor) -> Tensor:
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
