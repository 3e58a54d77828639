"""The distillation objective: how far the drafter's distribution is from the target's, without a [tokens, V] tensor.

Per draft step k and position t, with p = softmax(head(h_{t+k})), the target's own next-token distribution, and
q = softmax(head(s_t^(k))):

    kl: sum_v p_v (log p_v - log q_v)        gradient with respect to the drafter's logits: q - p
    lm: -log q_y, y the text's token          gradient: q - onehot(y)
    tv: 1 - o, o = sum_v min(p_v, q_v)        o: the share of drafted tokens that sampling accepts
    lk: -log o
    e2e-tv: 1 - o^(1) o^(2) .. o^(k), each o of the same chain: at equal weights of the steps, 1 - E[accepted] / K

With a draft vocabulary the head is cut to its J rows, so that both distributions are renormalized over them.

`vllm_mtp.kernels.ops.linear_kl` has the arithmetic: logits of a chunk of rows at a time, in float32, the gradient with
respect to s made in the forward pass, the teacher's softmax of a position shared by the K steps that predict it. Here
is which state of which step predicts what the teacher says at which position.

mean_embedding.py is the same KL loss from less; this one has every objective, soft caps and all measures.
"""

# Shapes: B sequences, T positions, K draft steps, S = T + K teacher positions, D hidden size, V vocabulary, J draft
# vocabulary (V where there is none), N teacher rows that count.

import itertools
from typing import NamedTuple

import torch
from torch import Tensor

from vllm_mtp.kernels.ops import linear_kl
from vllm_mtp.module.shared_head import SharedHead
from vllm_mtp.training.transfer import to_device

_CHUNK_SIZE = 128


class Distillation(NamedTuple):
    """Means over all positions that count, one value per draft step, each [K]."""

    loss_K: Tensor
    agreement_K: Tensor
    """Share of positions at which drafter and target have the same most likely token: greedy acceptance."""
    overlap_K: Tensor | None = None
    """sum_v min(p_v, q_v): acceptance of a sampled draft token at temperature 1; None where it was not asked for."""


class WholeHead(NamedTuple):
    """The target's own head, to measure what it says itself where there is a draft vocabulary."""

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
        Boolean [N], which rows have such a state, and [N], its index into [B * T], or that of any where there is none.
    """
    sequence_N, j_N = rows_N // num_teacher_positions, rows_N % num_teacher_positions
    t_N = j_N - step
    exists_N = (t_N >= 0) & (t_N < num_positions)
    return exists_N, sequence_N * num_positions + t_N.clamp(0, num_positions - 1)


def distillation(
    states_KBTD: Tensor,
    teacher_hidden_BSD: Tensor,
    labels_BS: Tensor,
    head: SharedHead,
    *,
    mask_BS: Tensor | None = None,
    objective: str = "kl",
    whole: WholeHead | None = None,
    chunk_size: int | None = None,
) -> Distillation:
    """Compares drafter and target at K draft steps.

    Args:
        states_KBTD: the module's outputs (`unroll`); index k - 1 at position t predicts x_{t+k+1}.
        teacher_hidden_BSD: the target's hidden states of positions 0..T+K-1, post-norm.
        labels_BS: the token that follows each of those positions, x_1..x_{T+K}, as a row of the head; -1 for a token
            that the draft vocabulary does not have. Used by "lm", which leaves out such positions. On the host, as the
            mask, so that it need not wait for a GPU to know how many positions count.
        head: the target's head, cut to the draft vocabulary where there is one.
        mask_BS: which teacher positions count; None: all.
        objective: one of OBJECTIVES of training/config.py.
        whole: measure agreement and overlap against the target's whole vocabulary.
        chunk_size: teacher rows whose logits exist at a time; None: what the kernel takes.

    Returns:
        Loss (differentiable with respect to states_KBTD), agreement and overlap of each step.
    """
    num_steps, _, num_positions, _ = states_KBTD.shape
    device = states_KBTD.device
    assert teacher_hidden_BSD.size(1) == labels_BS.size(1) == num_positions + num_steps
    if mask_BS is None:
        mask_BS = torch.ones_like(labels_BS, dtype=torch.bool)
    if objective == "lm":
        mask_BS = mask_BS & (labels_BS >= 0)
    rows_N = teacher_rows(mask_BS)
    states, exists, indices = [], [], []
    for step, states_BTD in enumerate(states_KBTD.unbind(), start=1):
        exists_N, index_N = student_rows(rows_N, step, num_positions + num_steps, num_positions)
        states.append(states_BTD.flatten(0, 1).index_select(0, to_device(index_N, device)))
        exists.append(exists_N)
        indices.append(index_N)
    exists_KN = to_device(torch.stack(exists), device)
    count_K = exists_KN.sum(-1).clamp(min=1)

    hidden_ND = teacher_hidden_BSD.flatten(0, 1).index_select(0, to_device(rows_N, device))
    log_sum_N = top_N = None
    if whole is not None:
        log_sum_N, top_N = _whole_vocabulary(hidden_ND, whole)
    found = linear_kl(
        torch.stack(states),
        hidden_ND,
        head.head_VD,
        objective="tv" if objective == "e2e-tv" else objective,
        weights_KT=exists_KN,
        labels_KT=to_device(labels_BS.flatten()[rows_N], device) if objective == "lm" else None,
        bias_V=head.bias_V,
        scale=head.transform.scale,
        soft_cap=head.transform.soft_cap,
        teacher_log_sum_T=log_sum_N,
        teacher_top_T=top_N,
        metrics=True,
        chunk_size=chunk_size,
    )
    assert found.agreement is not None
    assert found.overlap is not None
    loss_KN = found.per_token
    if objective == "e2e-tv":
        index_KN = to_device(torch.stack(indices), device)
        loss_KN = _rejected_so_far(loss_KN, exists_KN, index_KN, states_KBTD[0, :, :, 0].numel())
    return Distillation(
        loss_KN.sum(-1) / count_K,
        found.agreement.sum(-1) / count_K,
        found.overlap.sum(-1) / count_K,
    )


def _rejected_so_far(rejected_KN: Tensor, exists_KN: Tensor, index_KN: Tensor, num_states: int) -> Tensor:
    """1 - the product of what a chain's draft steps accept up to each one; a step that does not count rejects nothing.

    Args:
        rejected_KN: of each step alone, by teacher rows; 0 where there is no such state.
        exists_KN, index_KN: which state of each step, out of num_states, predicts what a teacher row does.
        num_states: [B * T], of which a chain starts at each.
    """
    accepted_KP = rejected_KN.new_ones(len(rejected_KN), num_states + 1)  # the last for rows without a state
    index_KN = torch.where(exists_KN, index_KN, num_states)
    accepted_KP = accepted_KP.scatter(1, index_KN, 1 - rejected_KN)
    so_far_KP = torch.stack([*itertools.accumulate(accepted_KP, torch.mul)])  # cumprod's gradient waits for the device
    return torch.where(exists_KN, 1 - so_far_KP.gather(1, index_KN), 0)


def _whole_vocabulary(hidden_ND: Tensor, whole: WholeHead) -> tuple[Tensor, Tensor]:
    """log-sum-exp of the target's logits over its whole vocabulary, and which draft token is the most likely, or -1."""
    parts = []
    for hidden_CD in hidden_ND.to(whole.head.head_VD.dtype).split(_CHUNK_SIZE):
        logits_CV = whole.head.logits(hidden_CD)
        parts.append((logits_CV.logsumexp(-1), logits_CV.argmax(-1)))
    log_sum_N, id_N = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    draft_N = torch.searchsorted(whole.draft_ids_J, id_N).clamp(max=len(whole.draft_ids_J) - 1)
    return log_sum_N, torch.where(whole.draft_ids_J[draft_N] == id_N, draft_N, -1)
