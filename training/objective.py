"""The distillation objective: how far the drafter's distribution is from the target's, without a [tokens, V] tensor.

Per draft step k and position t, with p = softmax(head(h_{t+k})), the target's own next-token distribution, and
q = softmax(head(s_t^(k))):

    kl: sum_v p_v (log p_v - log q_v)        gradient with respect to the drafter's logits: q - p
    lm: -log q_y, y the text's token          gradient: q - onehot(y)

Logits exist for a chunk of positions at a time, in float32. The gradient with respect to s is made in the forward pass
(`(q - p) W`, through the target's cap and scale), so that backward only scales it; the head is frozen and gets none.
The teacher's softmax of a position is computed once and shared by the K steps that predict it.
"""

# Shapes: B sequences, T positions, K draft steps, S = T + K teacher positions, D hidden size, V vocabulary.

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vllm_mtp.shared_head import SharedHead


class Distillation(NamedTuple):
    """Means over all positions, one value per draft step, each [K]."""

    loss_K: Tensor
    agreement_K: Tensor
    """Share of positions at which drafter and target have the same most likely token: greedy acceptance."""
    overlap_K: Tensor
    """sum_v min(p_v, q_v): acceptance of a sampled draft token at temperature 1."""


def distillation(
    states_KBTD: Tensor,
    teacher_hidden_BSD: Tensor,
    labels_BS: Tensor,
    head: SharedHead,
    *,
    objective: str = "kl",
    chunk_size: int = 64,
) -> Distillation:
    """Compares drafter and target at K draft steps.

    Args:
        states_KBTD: the module's outputs (`unroll`); index k - 1 at position t predicts x_{t+k+1}.
        teacher_hidden_BSD: the target's hidden states of positions 0..T+K-1, post-norm.
        labels_BS: the token that follows each of those positions, x_1..x_{T+K}; used by "lm".
        head: the target's head.
        objective: "kl" or "lm".
        chunk_size: positions of each sequence whose logits exist at a time.

    Returns:
        Loss (differentiable with respect to states_KBTD), agreement and overlap of each step.
    """
    num_steps, _, num_positions, _ = states_KBTD.shape
    assert teacher_hidden_BSD.size(1) == labels_BS.size(1) == num_positions + num_steps
    apply: Callable[..., tuple[Tensor, Tensor, Tensor]] = _Distillation.apply
    return Distillation(*apply(states_KBTD, teacher_hidden_BSD, labels_BS, head, objective, chunk_size))


class _Distillation(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        states_KBTD: Tensor,
        teacher_hidden_BSD: Tensor,
        labels_BS: Tensor,
        head: SharedHead,
        objective: str,
        chunk_size: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        num_steps, num_sequences, num_positions, _ = states_KBTD.shape
        needs_gradient = states_KBTD.requires_grad
        gradient_KBTD = torch.zeros_like(states_KBTD) if needs_gradient else None
        sums_3K = torch.zeros(3, num_steps, device=states_KBTD.device)
        weight_VD = head.head_VD
        for start in range(1, num_positions + num_steps, chunk_size):
            stop = min(start + chunk_size, num_positions + num_steps)
            log_p_BCV = head.logits(teacher_hidden_BSD[:, start:stop].to(weight_VD.dtype)).log_softmax(-1)
            p_BCV = log_p_BCV.exp()
            for k in range(num_steps):
                # Teacher position j scores step k at position t = j - (k + 1).
                first, last = max(0, start - k - 1), min(num_positions, stop - k - 1)
                if first >= last:
                    continue
                rows = slice(first + k + 1 - start, last + k + 1 - start)
                p, log_p = p_BCV[:, rows], log_p_BCV[:, rows]
                labels = labels_BS[:, first + k + 1 : last + k + 1, None]
                raw = F.linear(states_KBTD[k, :, first:last].to(weight_VD.dtype), weight_VD, head.bias_V).float()
                log_q = head.transform(raw).log_softmax(-1)
                q = log_q.exp()
                if objective == "kl":
                    sums_3K[0, k] += (p * (log_p - log_q)).sum()
                else:
                    sums_3K[0, k] -= log_q.gather(-1, labels).sum()
                sums_3K[1, k] += (log_q.argmax(-1) == log_p.argmax(-1)).sum()
                sums_3K[2, k] += torch.minimum(p, q).sum()
                if gradient_KBTD is not None:
                    difference = q - p if objective == "kl" else q.scatter_add(-1, labels, -torch.ones_like(q[..., :1]))
                    difference = head.transform.gradient(raw, difference)
                    gradient_KBTD[k, :, first:last] = difference.to(weight_VD.dtype) @ weight_VD
        count = num_sequences * num_positions
        if gradient_KBTD is not None:
            ctx.save_for_backward(gradient_KBTD / count)
        loss_K, agreement_K, overlap_K = (sums_3K / count).unbind()
        ctx.mark_non_differentiable(agreement_K, overlap_K)
        return loss_K, agreement_K, overlap_K

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (gradient_KBTD,) = ctx.saved_tensors
        return gradient_KBTD * grads[0].view(-1, 1, 1, 1), None, None, None, None, None
