"""The KL objective from three numbers and one vector of the teacher per position, exact, without its distribution.

The teacher is its mean row of the head, e = W^T p (`vllm_mtp.kernels.ops.mean_embedding`, where the arithmetic is), and
depends on the frozen target alone. Computed once and kept over epochs and over the K steps that share a position, it
leaves the drafter's own logits and one product with W: two of the six products, and a softmax less.
objective.py is the same from the teacher's hidden states, for every objective.
"""

# Shapes: B sequences, T positions, K draft steps, D hidden size, N teacher rows that count, M of them that a step has.

from collections.abc import Callable

import torch
from torch import Tensor

from vllm_mtp.kernels import ops
from vllm_mtp.kernels.ops import LinearKL, Teacher
from vllm_mtp.module.shared_head import SharedHead
from vllm_mtp.training.loss.objective import Distillation, student_rows
from vllm_mtp.training.transfer import to_device


def teacher_of(hidden_ND: Tensor, head: SharedHead, *, chunk_size: int | None = None) -> Teacher:
    """The teacher at the given hidden states of the target.

    Args:
        hidden_ND: the target's hidden states, post-norm.
        head: the target's head, cut to the draft vocabulary where there is one; without a soft cap.
        chunk_size: rows whose logits exist at a time; None: what the kernel takes.
    """
    assert head.transform.soft_cap is None
    return ops.mean_embedding(
        hidden_ND, head.head_VD, bias_V=head.bias_V, scale=head.transform.scale, chunk_size=chunk_size
    )


def mean_embedding_kl(
    states_KBTD: Tensor,
    rows_N: Tensor,
    teacher: Teacher,
    head: SharedHead,
    *,
    linear_kl: Callable[..., LinearKL] = ops.linear_kl,
) -> Distillation:
    """KL and agreement of K draft steps; `distillation` from objective.py with objective "kl", without overlap.

    Args:
        states_KBTD: the module's outputs (`unroll`); index k - 1 at position t predicts x_{t+k+1}.
        rows_N: indices into [B * (T + K)] of the teacher positions that count (`teacher_rows`), on the host, which then
            need not wait for a GPU to know how many there are.
        teacher: of these rows.
        head: the target's head, cut to the draft vocabulary where there is one.
        linear_kl: that of vllm_mtp.kernels.ops, or its plain twin with a compiled chunk.

    Returns:
        Loss (differentiable with respect to states_KBTD) and agreement of each step.
    """
    num_steps, _, num_positions, _ = states_KBTD.shape
    losses, agreements = [], []
    for step, states_BTD in enumerate(states_KBTD.unbind(), start=1):
        exists_N, index_N = student_rows(rows_N, step, num_positions + num_steps, num_positions)
        kept_M = exists_N.nonzero().flatten()
        index_M, kept_M = (to_device(places_M, states_BTD.device) for places_M in (index_N[kept_M], kept_M))
        found = linear_kl(
            states_BTD.flatten(0, 1).index_select(0, index_M),
            Teacher(*(tensor.index_select(0, kept_M) for tensor in teacher)),
            head.head_VD,
            bias_V=head.bias_V,
            scale=head.transform.scale,
            metrics=True,
        )
        assert found.agreement is not None
        losses.append(found.loss)
        agreements.append(found.agreement.sum() / max(1, len(index_M)))
    return Distillation(torch.stack(losses), torch.stack(agreements))
