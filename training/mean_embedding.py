"""The KL objective from three numbers and one vector of the teacher per position, exact, without its distribution.

With logits z_v = scale (w_v s + b_v), no soft cap, and p the teacher over the draft vocabulary:

    KL(p || q) = sum_v p_v log p_v - sum_v p_v z_v + logsumexp(z)
               = c - scale <e, s> + logsumexp(z)       e = sum_v p_v w_v,  c = sum_v p_v (log p_v - scale b_v)
    gradient   = scale (W^T q - e)

e and c depend on the frozen target alone. Computed once and kept over epochs and over the K steps that share a
position, they leave the drafter's own logits and one product with W: two of the six products, and a softmax less.
objective.py is the plain twin.
"""

# Shapes: B sequences, T positions, K draft steps, S = T + K teacher positions, D hidden size, J draft vocabulary, N
# teacher rows that count, C rows of a chunk.

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vllm_mtp.shared_head import SharedHead
from vllm_mtp.training.objective import Distillation, student_rows

CHUNK_SIZE = 512
ChunkFunction = Callable[[Tensor, Tensor, Tensor | None, float], tuple[Tensor, Tensor, Tensor]]


class Teacher(NamedTuple):
    """What the loss needs of the target at each teacher row."""

    mean_ND: Tensor
    """e: the mean row of the head under p."""
    constant_N: Tensor
    """c: minus the entropy of p, less the mean bias."""
    top_N: Tensor
    """The draft vocabulary's most likely token, as a row of the head."""


@torch.no_grad()
def teacher_of(hidden_ND: Tensor, head: SharedHead, *, chunk_size: int = CHUNK_SIZE) -> Teacher:
    """The teacher at the given hidden states of the target.

    Args:
        hidden_ND: the target's hidden states, post-norm.
        head: the target's head, cut to the draft vocabulary where there is one; without a soft cap.
        chunk_size: rows whose logits exist at a time.
    """
    assert head.transform.soft_cap is None
    parts = []
    for hidden_CD in hidden_ND.split(chunk_size):
        log_p_CJ = head.logits(hidden_CD.to(head.head_VD.dtype)).log_softmax(-1)
        p_CJ = log_p_CJ.exp()
        constant_C = (p_CJ * log_p_CJ).sum(-1)
        if head.bias_V is not None:
            constant_C -= head.transform.scale * (p_CJ @ head.bias_V.float())
        parts.append(((p_CJ.to(head.head_VD.dtype) @ head.head_VD).float(), constant_C, log_p_CJ.argmax(-1)))
    if not parts:
        empty_0 = hidden_ND.new_zeros(0, dtype=torch.float32)
        return Teacher(hidden_ND.float(), empty_0, empty_0.long())
    return Teacher(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


def mean_embedding_kl(
    states_KBTD: Tensor,
    rows_N: Tensor,
    teacher: Teacher,
    head: SharedHead,
    *,
    chunk: "ChunkFunction | None" = None,
) -> Distillation:
    """KL and agreement of K draft steps; `distillation` from objective.py with objective "kl", without overlap.

    Args:
        states_KBTD: the module's outputs (`unroll`); index k - 1 at position t predicts x_{t+k+1}.
        rows_N: indices into [B * (T + K)] of the teacher positions that count (`teacher_rows`).
        teacher: of these rows.
        head: the target's head, cut to the draft vocabulary where there is one.
        chunk: what computes one chunk, `drafter_chunk` or the same compiled.

    Returns:
        Loss (differentiable with respect to states_KBTD) and agreement of each step.
    """
    apply: Callable[..., tuple[Tensor, Tensor]] = _MeanEmbeddingKL.apply
    return Distillation(*apply(states_KBTD, rows_N, *teacher, head, chunk or drafter_chunk))


def drafter_chunk(
    states_CD: Tensor, weight_JD: Tensor, bias_J: Tensor | None, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """log-sum-exp of the drafter's logits, its most likely token and W^T q, [C], [C] and [C, D]."""
    logits_CJ = F.linear(states_CD, weight_JD, bias_J).float() * scale
    top_C = logits_CJ.argmax(-1)
    log_sum_C = logits_CJ.logsumexp(-1)
    q_CJ = (logits_CJ - log_sum_C[:, None]).exp()
    return log_sum_C, top_C, (q_CJ.to(weight_JD.dtype) @ weight_JD).float()


class _MeanEmbeddingKL(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        states_KBTD: Tensor,
        rows_N: Tensor,
        mean_ND: Tensor,
        constant_N: Tensor,
        top_N: Tensor,
        head: SharedHead,
        chunk: ChunkFunction,
    ) -> tuple[Tensor, Tensor]:
        num_steps, _, num_positions, hidden_size = states_KBTD.shape
        scale, weight_JD = head.transform.scale, head.head_VD
        gradient_KBTD = torch.zeros_like(states_KBTD) if states_KBTD.requires_grad else None
        loss_K, agreement_K = torch.zeros(2, num_steps, device=states_KBTD.device).unbind()
        for k in range(num_steps):
            exists_N, index_M = student_rows(rows_N, k + 1, num_positions + num_steps, num_positions)
            states_MD = states_KBTD[k].reshape(-1, hidden_size)[index_M]
            mean_MD, constant_M, top_M = mean_ND[exists_N].float(), constant_N[exists_N], top_N[exists_N]
            loss, agreement = loss_K.new_zeros(()), loss_K.new_zeros(())
            for start in range(0, len(index_M), CHUNK_SIZE):
                part = slice(start, start + CHUNK_SIZE)
                states_CD = states_MD[part]
                # Always one shape, so that a compiled function is compiled once.
                padded_CD = F.pad(states_CD, (0, 0, 0, CHUNK_SIZE - len(states_CD))).to(weight_JD.dtype)
                log_sum_C, found_C, expected_CD = (
                    tensor[: len(states_CD)] for tensor in chunk(padded_CD, weight_JD, head.bias_V, scale)
                )
                loss += (constant_M[part] + log_sum_C).sum() - scale * (
                    mean_MD[part] * padded_CD[: len(states_CD)].float()
                ).sum()
                agreement += (found_C == top_M[part]).sum()
                if gradient_KBTD is not None:
                    gradient_CD = scale / len(index_M) * (expected_CD - mean_MD[part])
                    gradient_KBTD[k].view(-1, hidden_size)[index_M[part]] = gradient_CD.to(gradient_KBTD.dtype)
            loss_K[k], agreement_K[k] = loss / max(1, len(index_M)), agreement / max(1, len(index_M))
        if gradient_KBTD is not None:
            ctx.save_for_backward(gradient_KBTD)
        ctx.mark_non_differentiable(agreement_K)
        return loss_K, agreement_K

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (gradient_KBTD,) = ctx.saved_tensors
        return gradient_KBTD * grads[0].view(-1, 1, 1, 1), None, None, None, None, None, None
