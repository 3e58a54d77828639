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
# vocabulary (V where there is none), N teacher rows that count, P = B T states of a draft step.

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
    agrees_KBT: Tensor | None = None
    """At which states the most likely token is the same, not where nothing counts; None where it was not asked for."""


class Places(NamedTuple):
    """Teacher positions that count, and which state of each draft step predicts what the teacher says there."""

    rows_N: Tensor
    """Indices into [B * S] (`teacher_rows`)."""
    index_KN: Tensor
    """Indices into [B * T], of any state where there is none."""
    exists_KN: Tensor
    labels_N: Tensor | None
    """For "lm": the text's token as a row of the head; -1 for one that a draft vocabulary does not have."""

    @property
    def scored_KN(self) -> Tensor:
        """What the means are over."""
        return self.exists_KN if self.labels_N is None else self.exists_KN & (self.labels_N >= 0)

    def to(self, device: torch.device) -> "Places":
        """The same on a device, which need not be waited for."""
        return self._replace(
            **{name: to_device(tensor, device) for name, tensor in self._asdict().items() if tensor is not None}
        )


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


def places(mask_BS: Tensor, num_steps: int, labels_BS: Tensor | None = None) -> Places:
    """Where num_steps draft steps are scored, all on the host: no device is waited for to know how many places count.

    Args:
        mask_BS: which teacher positions count.
        num_steps: K; there are states at the first S - K positions.
        labels_BS: the token that follows each position, as `Places.labels_N` has it.
    """
    rows_N, num_teacher_positions = teacher_rows(mask_BS), mask_BS.size(1)
    num_positions = num_teacher_positions - num_steps
    found = [student_rows(rows_N, step, num_teacher_positions, num_positions) for step in range(1, num_steps + 1)]
    exists, indices = zip(*found, strict=True)
    labels_N = None if labels_BS is None else labels_BS.flatten()[rows_N]
    return Places(rows_N, torch.stack(indices), torch.stack(exists), labels_N)


def states_at(states_KBTD: Tensor, index_KN: Tensor) -> Tensor:
    """The states at the places of each draft step, [K, N, D]."""
    num_steps, num_rows, num_positions, size = states_KBTD.shape
    first_K1 = num_rows * num_positions * torch.arange(num_steps, device=index_KN.device)[:, None]
    found_KN_D = states_KBTD.flatten(0, 2).index_select(0, (first_K1 + index_KN).flatten())
    return found_KN_D.view(*index_KN.shape, size)


def distillation(
    states_KBTD: Tensor,
    teacher_hidden_BSD: Tensor,
    where: Places,
    head: SharedHead,
    *,
    objective: str = "kl",
    whole: WholeHead | None = None,
    chunk_size: int | None = None,
    by_state: bool = False,
) -> Distillation:
    """Compares drafter and target at K draft steps.

    Args:
        states_KBTD: the module's outputs (`unroll`); index k - 1 at position t predicts x_{t+k+1}.
        teacher_hidden_BSD: the target's hidden states of positions 0..T+K-1, post-norm.
        where: the places to compare at (`places`), on the device; with labels for "lm".
        head: the target's head, cut to the draft vocabulary where there is one.
        objective: one of OBJECTIVES of training/config.py.
        whole: measure agreement and overlap against the target's whole vocabulary.
        chunk_size: teacher rows whose logits exist at a time; None: what the kernel takes.
        by_state: say of every state whether it agrees.

    Returns:
        Loss (differentiable with respect to states_KBTD), agreement and overlap of each step.
    """
    assert (where.labels_N is not None) == (objective == "lm")
    scored_KN = where.scored_KN
    count_K = scored_KN.sum(-1).clamp(min=1)
    hidden_ND = teacher_hidden_BSD.flatten(0, 1).index_select(0, where.rows_N)
    log_sum_N = top_N = None
    if whole is not None:
        log_sum_N, top_N = _whole_vocabulary(hidden_ND, whole)
    found = linear_kl(
        states_at(states_KBTD, where.index_KN),
        hidden_ND,
        head.head_VD,
        objective="tv" if objective == "e2e-tv" else objective,
        weights_KT=where.exists_KN,
        labels_KT=None if where.labels_N is None else where.labels_N.clamp(min=0),
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
    loss_KN, states_KBT = found.per_token, states_KBTD[..., 0]
    if objective == "e2e-tv":
        loss_KN = _rejected_so_far(loss_KN, where, states_KBT[0].numel())
    measured = (loss_KN, found.agreement, found.overlap)
    loss_K, agreement_K, overlap_K = (torch.where(scored_KN, of_KN, 0).sum(-1) / count_K for of_KN in measured)
    agrees_KBT = None
    if by_state:
        agrees_KP = _by_state(found.agreement, where, states_KBT[0].numel(), otherwise=False)
        agrees_KBT = agrees_KP[:, :-1].view(states_KBT.shape)
    return Distillation(loss_K, agreement_K, overlap_K, agrees_KBT)


def _rejected_so_far(rejected_KN: Tensor, where: Places, num_states: int) -> Tensor:
    """1 - the product of what a chain's draft steps accept up to each one; a step that does not count rejects nothing.

    Args:
        rejected_KN: of each step alone, by teacher rows; 0 where there is no such state.
        where: of the rows.
        num_states: [B * T], of which a chain starts at each.
    """
    accepted_KP = _by_state(1 - rejected_KN, where, num_states, otherwise=True)
    so_far_KP = torch.stack([*itertools.accumulate(accepted_KP, torch.mul)])  # cumprod's gradient waits for the device
    index_KN = torch.where(where.exists_KN, where.index_KN, num_states)
    return torch.where(where.exists_KN, 1 - so_far_KP.gather(1, index_KN), 0)


def _by_state(found_KN: Tensor, where: Places, num_states: int, *, otherwise: bool) -> Tensor:
    """What was found at the places, by the states that they are at, [K, P + 1]: the last for rows without a state."""
    index_KN = torch.where(where.exists_KN, where.index_KN, num_states)
    found_KP = found_KN.new_full((len(found_KN), num_states + 1), otherwise)
    return found_KP.scatter(1, index_KN, found_KN)


def _whole_vocabulary(hidden_ND: Tensor, whole: WholeHead) -> tuple[Tensor, Tensor]:
    """log-sum-exp of the target's logits over its whole vocabulary, and which draft token is the most likely, or -1."""
    parts = []
    for hidden_CD in hidden_ND.to(whole.head.head_VD.dtype).split(_CHUNK_SIZE):
        logits_CV = whole.head.logits(hidden_CD)
        parts.append((logits_CV.logsumexp(-1), logits_CV.argmax(-1)))
    log_sum_N, id_N = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    draft_N = torch.searchsorted(whole.draft_ids_J, id_N).clamp(max=len(whole.draft_ids_J) - 1)
    return log_sum_N, torch.where(whole.draft_ids_J[draft_N] == id_N, draft_N, -1)
