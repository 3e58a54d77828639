"""The distillation objective: how far the drafter's distribution is from the target's, without a [tokens, V] tensor.

Per draft step k and position t, with p = softmax(head(h_{t+k})), the target's own next-token distribution, and
q = softmax(head(s_t^(k))):

    kl: sum_v p_v (log p_v - log q_v)        gradient with respect to the drafter's logits: q - p
    lm: -log q_y, y the text's token          gradient: q - onehot(y)

With a draft vocabulary the head is cut to its J rows, so that both distributions are renormalised over them.

Logits exist for a chunk of rows at a time, in float32. The gradient with respect to s is made in the forward pass
(`(q - p) W`, through the target's cap and scale), so that backward only scales it; the head is frozen and gets none.
The teacher's softmax of a position is computed once and shared by the K steps that predict it.

mean_embedding.py is the same KL loss from less; this one has every objective, soft caps and all measures.
"""

# Shapes: B sequences, T positions, K draft steps, S = T + K teacher positions, D hidden size, V vocabulary, J draft
# vocabulary (V where there is none), N teacher rows that count, C rows of a chunk.

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vllm_mtp.shared_head import SharedHead


class Distillation(NamedTuple):
    """Means over all positions that count, one value per draft step, each [K]."""

    loss_K: Tensor
    agreement_K: Tensor
    """Share of positions at which drafter and target have the same most likely token: greedy acceptance."""
    overlap_K: Tensor | None = None
    """sum_v min(p_v, q_v): acceptance of a sampled draft token at temperature 1; None where it was not asked for."""


class WholeHead(NamedTuple):
    """For measuring with a draft vocabulary: what the target itself says, tokens outside included."""

    head: SharedHead
    draft_ids_J: Tensor
    """Target ids of the draft vocabulary, ascending."""


def teacher_rows(mask_BS: Tensor) -> Tensor:
    """Indices into [B * S] of the teacher positions that draft steps predict, [N]: all that count but position 0."""
    mask_BS = mask_BS.clone()
    mask_BS[:, 0] = False
    return mask_BS.flatten().nonzero().flatten()


def student_rows(rows_N: Tensor, step: int, num_teacher_positions: int, num_positions: int) -> tuple[Tensor, Tensor]:
    """Which states of draft step `step` (from 1) predict what teacher rows do: position t = j - step predicts j + 1.

    Returns:
        Boolean [N], which rows have such a state, and the index into [B * T] of each that has.
    """
    sequence_N, j_N = rows_N // num_teacher_positions, rows_N % num_teacher_positions
    t_N = j_N - step
    exists_N = (t_N >= 0) & (t_N < num_positions)
    return exists_N, (sequence_N * num_positions + t_N)[exists_N]


def distillation(
    states_KBTD: Tensor,
    teacher_hidden_BSD: Tensor,
    labels_BS: Tensor,
    head: SharedHead,
    *,
    mask_BS: Tensor | None = None,
    objective: str = "kl",
    whole: WholeHead | None = None,
    chunk_size: int = 128,
) -> Distillation:
    """Compares drafter and target at K draft steps.

    Args:
        states_KBTD: the module's outputs (`unroll`); index k - 1 at position t predicts x_{t+k+1}.
        teacher_hidden_BSD: the target's hidden states of positions 0..T+K-1, post-norm.
        labels_BS: the token that follows each of those positions, x_1..x_{T+K}, as a row of the head; -1 for a token
            that the draft vocabulary does not have. Used by "lm", which leaves out such positions.
        head: the target's head, cut to the draft vocabulary where there is one.
        mask_BS: which teacher positions count; None: all.
        objective: "kl" or "lm".
        whole: measure agreement and overlap against the target's whole vocabulary.
        chunk_size: teacher rows whose logits exist at a time.

    Returns:
        Loss (differentiable with respect to states_KBTD), agreement and overlap of each step.
    """
    num_steps, _, num_positions, _ = states_KBTD.shape
    assert teacher_hidden_BSD.size(1) == labels_BS.size(1) == num_positions + num_steps
    if mask_BS is None:
        mask_BS = torch.ones_like(labels_BS, dtype=torch.bool)
    if objective == "lm":
        mask_BS = mask_BS & (labels_BS >= 0)
    apply: Callable[..., tuple[Tensor, Tensor, Tensor]] = _Distillation.apply
    return Distillation(*apply(states_KBTD, teacher_hidden_BSD, labels_BS, head, mask_BS, objective, whole, chunk_size))


class _Distillation(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        states_KBTD: Tensor,
        teacher_hidden_BSD: Tensor,
        labels_BS: Tensor,
        head: SharedHead,
        mask_BS: Tensor,
        objective: str,
        whole: WholeHead | None,
        chunk_size: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        num_steps, _, num_positions, hidden_size = states_KBTD.shape
        gradient_KBTD = torch.zeros_like(states_KBTD) if states_KBTD.requires_grad else None
        sums_4K = torch.zeros(4, num_steps, device=states_KBTD.device)
        weight_JD = head.head_VD
        hidden_RD, labels_R = teacher_hidden_BSD.flatten(0, 1).to(weight_JD.dtype), labels_BS.flatten()
        for rows_C in teacher_rows(mask_BS).split(chunk_size):
            log_p_CJ = head.logits(hidden_RD[rows_C]).log_softmax(-1)
            p_CJ = log_p_CJ.exp()
            top_C, seen_p_CJ = log_p_CJ.argmax(-1), p_CJ
            if whole is not None:
                p_CV = whole.head.logits(hidden_RD[rows_C]).softmax(-1)
                top_C, seen_p_CJ = p_CV.argmax(-1), p_CV[:, whole.draft_ids_J]
            for k in range(num_steps):
                exists_C, index = student_rows(rows_C, k + 1, mask_BS.size(1), num_positions)
                if not len(index):
                    continue
                p, log_p = p_CJ[exists_C], log_p_CJ[exists_C]
                labels = labels_R[rows_C[exists_C]][:, None]
                states = states_KBTD[k].reshape(-1, hidden_size)[index].to(weight_JD.dtype)
                raw = F.linear(states, weight_JD, head.bias_V).float()
                log_q = head.transform(raw).log_softmax(-1)
                q = log_q.exp()
                if objective == "kl":
                    sums_4K[0, k] += (p * (log_p - log_q)).sum()
                else:
                    sums_4K[0, k] -= log_q.gather(-1, labels).sum()
                top = log_q.argmax(-1) if whole is None else whole.draft_ids_J[log_q.argmax(-1)]
                sums_4K[1, k] += (top == top_C[exists_C]).sum()
                sums_4K[2, k] += torch.minimum(seen_p_CJ[exists_C], q).sum()
                sums_4K[3, k] += len(index)
                if gradient_KBTD is not None:
                    difference = q - p if objective == "kl" else q.scatter_add(-1, labels, -torch.ones_like(q[..., :1]))
                    difference = head.transform.gradient(raw, difference)
                    gradient_KBTD[k].view(-1, hidden_size)[index] = (difference.to(weight_JD.dtype) @ weight_JD).to(
                        gradient_KBTD.dtype
                    )
        count_K = sums_4K[3].clamp(min=1)
        if gradient_KBTD is not None:
            ctx.save_for_backward(gradient_KBTD / count_K.view(-1, 1, 1, 1).to(gradient_KBTD.dtype))
        loss_K, agreement_K, overlap_K = (sums_4K[:3] / count_K).unbind()
        ctx.mark_non_differentiable(agreement_K, overlap_K)
        return loss_K, agreement_K, overlap_K

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (gradient_KBTD,) = ctx.saved_tensors
        return gradient_KBTD * grads[0].view(-1, 1, 1, 1), None, None, None, None, None, None, None
