"""KL divergence of two heads' outputs from their hidden states: logits by chunks, and one row kernel for the rest.

    z = scale cap(h w^T + b)      cap(x) = soft_cap tanh(x / soft_cap)
    q = softmax(z_s)   p = softmax(z_t)   objectives and their gradients g in z_s: objectives.py
    dh_s = scale (g cap'(h_s w^T + b)) w

For a chunk of C tokens:

    z_t [C, V]    library product, float32 out      once for all K draft steps
    z_s [C, V]    library product, float32 out      once for each
    row kernel    one program per row: log-sum-exp and argmax of z_s in one pass; value, overlap and g in the next;
                  g overwrites z_s where the head is float32, and is a buffer in the head's dtype where it is not
    dh_s          library product g w

Logits, probabilities and gradients of all tokens [T, V] never exist, nor does a gradient of w: the head is frozen.
Logits are float32 even for a bfloat16 head: q - p of a good drafter is a small difference of large numbers. Rounding
the logits first costs 5% of the gradient at KL = 0.1 and 17% at 0.01, where this costs 0.2%.

With the teacher as mean embedding (e = w^T p and a constant of each token) the loss is constant + logsumexp(z_s) -
scale <e, h_s>, its gradient scale (w^T q - e): one product and one softmax less. The same row kernel makes e.

No atomics: the same inputs give the same bits. Nothing waits for the device, and no shape depends on values. NaN in a
hidden state makes NaN of its token, unless that does not count. A bias of -inf takes a token out of both distributions;
under a soft cap it does not.

Source: chunks with the gradient in the forward pass are Liger-Kernel's (arXiv 2410.10989); the loss by mean embeddings
follows from the head being linear: softmax(w h) is an exponential family in h with mean w^T p.
"""

# Shapes: K draft steps, T tokens, C tokens of a chunk, D hidden size, V vocabulary.

import torch
import triton
import triton.language as tl
from torch import Tensor

from vllm_mtp.kernels.common.matmul import product
from vllm_mtp.kernels.common.tables import Launch, Table, launch
from vllm_mtp.kernels.common.triton_common import or_zero, tanh
from vllm_mtp.kernels.linear_kl import reference
from vllm_mtp.kernels.linear_kl.reference import (
    FromMean,
    FromStates,
    MeanArguments,
    StatesArguments,
    Teacher,
    TeacherArguments,
)

# Rows are read in blocks of 4,096 by 8 warps: 16 float32 values a thread. Twice that spills registers on sm_90.
# "cpu" is the interpreter: a vocabulary of a test has several blocks.
SOFTMAX: Table = {"default": {0: Launch({"BLOCK": 4096}, num_warps=8)}, "cpu": {0: Launch({"BLOCK": 128}, num_warps=1)}}
DIVERGENCE: Table = dict(SOFTMAX)
_TO_TRY = ((1024, 4), (2048, 4), (2048, 8), (4096, 8), (4096, 16), (8192, 16))
"""What `bench tune-kernels` measures beside the entry of either table: BLOCK, warps."""


def launches_to_try() -> list[Launch]:
    """Launches of a row kernel that are worth measuring; all can run."""
    found = [Launch({"BLOCK": block}, num_warps) for block, num_warps in _TO_TRY]
    assert all(can_run(chosen) for chosen in found)
    return found


def can_run(chosen: Launch) -> bool:
    """Whether a thread has 4 float32 values, 16 bytes, of a block at least, and 16 at most."""
    return 4 <= chosen.tiles["BLOCK"] // (32 * chosen.num_warps) <= 16


@triton.jit
def _row_logits(row_ptr, bias_ptr, v, valid, scale, soft_cap, HAS_CAP: tl.constexpr):  # type: ignore[no-untyped-def]
    """A block of a row's z, -inf beyond the vocabulary."""
    z = tl.load(row_ptr + v, mask=valid, other=0.0).to(tl.float32)
    if bias_ptr is not None:
        z += tl.load(bias_ptr + v, mask=valid, other=0.0).to(tl.float32)
    if HAS_CAP:
        z = soft_cap * tanh(z / soft_cap)
    return tl.where(valid, z * scale, float("-inf"))


@triton.jit
def _log_sum_and_top(  # type: ignore[no-untyped-def]
    row_ptr, bias_ptr, scale, soft_cap, V, HAS_CAP: tl.constexpr, BLOCK: tl.constexpr
):
    """log-sum-exp and argmax of a row in one pass: the sum is rescaled when a larger logit is met."""
    peak = tl.full((), float("-inf"), tl.float32)
    total = tl.zeros((), tl.float32)
    top = tl.zeros((), tl.int32)
    for start in range(0, V, BLOCK):
        v = start + tl.arange(0, BLOCK)
        z = _row_logits(row_ptr, bias_ptr, v, v < V, scale, soft_cap, HAS_CAP)
        block_peak, where = tl.max(z, 0, return_indices=True, return_indices_tie_break_left=True)
        top = tl.where(block_peak > peak, start + where, top)
        higher = tl.maximum(peak, block_peak)
        taken_off = or_zero(higher)  # all logits so far may be -inf
        total = total * tl.exp(peak - taken_off) + tl.sum(tl.exp(z - taken_off), 0)
        peak = higher
    return peak + tl.log(total), top


@triton.jit(do_not_specialize=["scale", "soft_cap"])
def softmax_kernel(  # type: ignore[no-untyped-def]
    logits_ptr,  # [C, V]
    bias_ptr,  # [V] or None
    p_ptr,  # [C, V] or None; may be logits_ptr
    log_sum_ptr,  # [C]
    top_ptr,  # [C]
    scale,
    soft_cap,
    V,
    HAS_CAP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """log-sum-exp and argmax of a row of logits, and, where p_ptr is given, its softmax."""
    row = tl.program_id(0).to(tl.int64)
    row_ptr = logits_ptr + row * V
    log_sum, top = _log_sum_and_top(row_ptr, bias_ptr, scale, soft_cap, V, HAS_CAP, BLOCK)
    tl.store(log_sum_ptr + row, log_sum)
    tl.store(top_ptr + row, top)
    if p_ptr is not None:
        for start in range(0, V, BLOCK):
            v = start + tl.arange(0, BLOCK)
            z = _row_logits(row_ptr, bias_ptr, v, v < V, scale, soft_cap, HAS_CAP)
            tl.store(p_ptr + row * V + v, tl.exp(z - log_sum).to(p_ptr.dtype.element_ty), mask=v < V)


@triton.jit(do_not_specialize=["scale", "soft_cap"])
def divergence_kernel(  # type: ignore[no-untyped-def]
    student_ptr,  # [C, V], z_s before bias, cap and scale
    teacher_ptr,  # [C, V], z_t likewise; None for "lm" without metrics
    bias_ptr,  # [V] or None
    gradient_ptr,  # [C, V] or None; may be student_ptr
    teacher_log_sum_ptr,  # [C]
    seen_log_sum_ptr,  # [C]: of the vocabulary against which overlap is measured
    labels_ptr,  # [C]
    value_ptr,  # [C]
    overlap_ptr,  # [C] or None
    top_ptr,  # [C] or None
    scale,
    soft_cap,
    V,
    OBJECTIVE: tl.constexpr,
    HAS_CAP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Value of the objective, overlap and gradient of a row, from the logits of both sides."""
    row = tl.program_id(0).to(tl.int64)
    student_row_ptr, teacher_row_ptr = student_ptr + row * V, teacher_ptr
    if teacher_ptr is not None:
        teacher_row_ptr = teacher_ptr + row * V
        log_sum_t = tl.load(teacher_log_sum_ptr + row)
        seen_share = tl.exp(log_sum_t - tl.load(seen_log_sum_ptr + row))
    label = tl.full((), -1, tl.int64)
    if OBJECTIVE == "lm":
        label = tl.load(labels_ptr + row)
    ONE_PASS: tl.constexpr = OBJECTIVE == "kl" or OBJECTIVE == "lm"  # the gradient needs no sum over the row

    log_sum_s, top = _log_sum_and_top(student_row_ptr, bias_ptr, scale, soft_cap, V, HAS_CAP, BLOCK)
    if top_ptr is not None:
        tl.store(top_ptr + row, top)

    values, overlaps, belows = (
        tl.zeros((BLOCK,), tl.float32),
        tl.zeros((BLOCK,), tl.float32),
        tl.zeros((BLOCK,), tl.float32),
    )
    for start in range(0, V, BLOCK):
        v = start + tl.arange(0, BLOCK)
        valid = v < V
        z = _row_logits(student_row_ptr, bias_ptr, v, valid, scale, soft_cap, HAS_CAP)
        log_q = tl.where(valid, z - log_sum_s, 0.0)
        q = tl.where(valid, tl.exp(log_q), 0.0)
        if teacher_ptr is not None:
            z_t = _row_logits(teacher_row_ptr, bias_ptr, v, valid, scale, soft_cap, HAS_CAP)
            log_p = tl.where(valid, z_t - log_sum_t, 0.0)
            p = tl.where(valid, tl.exp(log_p), 0.0)
            if overlap_ptr is not None:
                overlaps += tl.minimum(p * seen_share, q)
        if OBJECTIVE == "kl":
            values += tl.where(p == 0.0, 0.0, p * (log_p - log_q))  # of a bias of -inf, log p - log q is NaN
            gradient = q - p
        elif OBJECTIVE == "lm":
            values -= tl.where(v == label, log_q, 0.0)
            gradient = q - tl.where(v == label, 1.0, 0.0)
        else:
            values += tl.minimum(p, q)
            belows += tl.where(q < p, q, 0.0)
        if ONE_PASS and gradient_ptr is not None:
            _store_gradient(gradient_ptr + row * V, v, valid, gradient, z, scale, soft_cap, HAS_CAP)

    value, below = tl.sum(values, 0), tl.sum(belows, 0)
    overlap = value  # of tv and lk: sum_v min(p_v, q_v)
    if OBJECTIVE == "tv":
        value = 1.0 - overlap
    if OBJECTIVE == "lk":
        value = -tl.log(overlap)
    tl.store(value_ptr + row, value)
    if overlap_ptr is not None:
        tl.store(overlap_ptr + row, tl.sum(overlaps, 0))

    if not ONE_PASS and gradient_ptr is not None:
        for start in range(0, V, BLOCK):
            v = start + tl.arange(0, BLOCK)
            valid = v < V
            z = _row_logits(student_row_ptr, bias_ptr, v, valid, scale, soft_cap, HAS_CAP)
            z_t = _row_logits(teacher_row_ptr, bias_ptr, v, valid, scale, soft_cap, HAS_CAP)
            q, p = tl.exp(tl.where(valid, z - log_sum_s, 0.0)), tl.exp(tl.where(valid, z_t - log_sum_t, 0.0))
            gradient = q * (below - tl.where(q < p, 1.0, 0.0))
            if OBJECTIVE == "lk":
                gradient /= overlap
            _store_gradient(gradient_ptr + row * V, v, valid, gradient, z, scale, soft_cap, HAS_CAP)


@triton.jit
def _store_gradient(  # type: ignore[no-untyped-def]
    row_ptr, v, valid, gradient, z, scale, soft_cap, HAS_CAP: tl.constexpr
):
    """Through the cap: cap'(x) = 1 - tanh(x / soft_cap)^2."""
    if HAS_CAP:
        tanh_x = tl.where(valid, z / (scale * soft_cap), 0.0)
        gradient *= 1.0 - tanh_x * tanh_x
    tl.store(row_ptr + v, gradient.to(row_ptr.dtype.element_ty), mask=valid)


def from_states(a: StatesArguments) -> FromStates:
    """Launches; the plain function of this name says what comes out."""
    if a.weight_VD.dtype == torch.float64:  # for tests and the curious: the kernels compute in float32
        return reference.from_states(a)
    (num_steps, num_tokens, _), (vocab_size, _) = a.hidden_KTD.shape, a.weight_VD.shape
    found = reference.empty_results(a)
    hidden_KTD, teacher_TD = a.hidden_KTD, a.teacher_TD
    if a.counts_KT is not None:
        hidden_KTD = hidden_KTD.masked_fill(~a.counts_KT[..., None], 0)
        teacher_TD = None if teacher_TD is None else teacher_TD.masked_fill(~a.counts_KT.any(0)[:, None], 0)
    labels_KT = None if a.labels_KT is None else a.labels_KT.contiguous()
    bias_V = None if a.bias_V is None else a.bias_V.contiguous()
    log_sum_T = hidden_KTD.new_empty(num_tokens, dtype=torch.float32)
    top_T = found.teacher_top_T if a.metrics else hidden_KTD.new_empty(num_tokens, dtype=torch.int64)
    seen_log_sum_T = log_sum_T if a.teacher_log_sum_T is None else a.teacher_log_sum_T.float().contiguous()
    softmax, divergence = (
        {"HAS_CAP": a.soft_cap is not None, **launch(table, num_tokens, hidden_KTD.device).arguments()}
        for table in (SOFTMAX, DIVERGENCE)
    )
    cap = a.soft_cap or 0.0

    for start in range(0, num_tokens, a.chunk_size):
        part = slice(start, min(start + a.chunk_size, num_tokens))
        rows = (part.stop - start,)
        teacher_CV = None
        if teacher_TD is not None:
            teacher_CV = _logits(teacher_TD[part], a.weight_VD)
            softmax_kernel[rows](
                teacher_CV, bias_V, None, log_sum_T[part], top_T[part], a.scale, cap, vocab_size, **softmax
            )
        for k in range(num_steps):
            student_CV = _logits(hidden_KTD[k, part], a.weight_VD)
            gradient_CV = _like_head(student_CV, a.weight_VD) if a.with_gradient else None
            divergence_kernel[rows](
                student_CV,
                teacher_CV,
                bias_V,
                gradient_CV,
                log_sum_T[part],
                seen_log_sum_T[part],
                None if labels_KT is None else labels_KT[k, part],
                found.value_KT[k, part],
                found.overlap_KT[k, part] if a.metrics else None,
                found.top_KT[k, part] if a.metrics else None,
                a.scale,
                cap,
                vocab_size,
                OBJECTIVE=a.objective,
                **divergence,
            )
            if gradient_CV is not None:
                found.gradient_KTD[k, part] = product(gradient_CV, a.weight_VD, torch.float32).mul_(a.scale)
            del student_CV, gradient_CV  # before the next chunk's are made: they are what memory is spent on
    value_KT, gradient_KTD = reference.masked(found.value_KT, found.gradient_KTD, a.counts_KT)
    return found._replace(value_KT=value_KT, gradient_KTD=gradient_KTD)


def mean_embedding(a: TeacherArguments) -> Teacher:
    """Launches; the plain function of this name says what comes out."""
    if a.weight_VD.dtype == torch.float64:
        return reference.mean_embedding(a)
    hidden_TD = a.hidden_TD.to(a.weight_VD.dtype)
    log_sum_T, top_T, mean_TD = _means(hidden_TD, a, with_mean=True)
    return Teacher(mean_TD, a.scale * (mean_TD * hidden_TD.float()).sum(-1) - log_sum_T, top_T)


def from_mean(a: MeanArguments) -> FromMean:
    """Launches; the plain function of this name says what comes out."""
    if a.weight_VD.dtype == torch.float64:
        return reference.from_mean(a)
    hidden_KTD, shape = a.hidden_KTD.to(a.weight_VD.dtype), a.hidden_KTD.shape[:2]
    if a.counts_KT is not None:
        hidden_KTD = hidden_KTD.masked_fill(~a.counts_KT[..., None], 0)
    log_sum, top, expected = _means(hidden_KTD.flatten(0, 1), a, with_mean=a.with_gradient)
    mean_TD = a.mean_TD.float()
    value_KT = a.constant_T + log_sum.view(shape) - a.scale * (mean_TD * hidden_KTD.float()).sum(-1)
    gradient_KTD = a.hidden_KTD.new_empty(0)
    if a.with_gradient:
        gradient_KTD = expected.view(hidden_KTD.shape).sub_(mean_TD).mul_(a.scale).to(a.hidden_KTD.dtype)
    value_KT, gradient_KTD = reference.masked(value_KT, gradient_KTD, a.counts_KT)
    return FromMean(value_KT, top.view(shape), gradient_KTD)


def _means(hidden_ND: Tensor, a: TeacherArguments | MeanArguments, *, with_mean: bool) -> tuple[Tensor, Tensor, Tensor]:
    """log-sum-exp, top token and, if so asked, mean row of the head for each hidden state."""
    num_rows, vocab_size = len(hidden_ND), len(a.weight_VD)
    bias_V = None if a.bias_V is None else a.bias_V.contiguous()
    log_sum_N = hidden_ND.new_empty(num_rows, dtype=torch.float32)
    top_N = hidden_ND.new_empty(num_rows, dtype=torch.int64)
    mean_ND = hidden_ND.new_empty(hidden_ND.shape if with_mean else (0,), dtype=torch.float32)
    options = {"HAS_CAP": False, **launch(SOFTMAX, num_rows, hidden_ND.device).arguments()}
    for start in range(0, num_rows, a.chunk_size):
        part = slice(start, min(start + a.chunk_size, num_rows))
        logits_CV = _logits(hidden_ND[part], a.weight_VD)
        p_CV = _like_head(logits_CV, a.weight_VD) if with_mean else None
        softmax_kernel[(part.stop - start,)](
            logits_CV, bias_V, p_CV, log_sum_N[part], top_N[part], a.scale, 0.0, vocab_size, **options
        )
        if p_CV is not None:
            mean_ND[part] = product(p_CV, a.weight_VD, torch.float32)
        del logits_CV, p_CV
    return log_sum_N, top_N, mean_ND


def _logits(hidden_CD: Tensor, weight_VD: Tensor) -> Tensor:
    """Before bias, cap and scale, float32."""
    return product(hidden_CD.to(weight_VD.dtype), weight_VD.t(), torch.float32)


def _like_head(logits_CV: Tensor, weight_VD: Tensor) -> Tensor:
    """Room for as many numbers in the head's dtype: their own where it is the same."""
    same = logits_CV.dtype == weight_VD.dtype
    return logits_CV if same else torch.empty_like(logits_CV, dtype=weight_VD.dtype)
