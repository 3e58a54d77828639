"""The KL objective from three numbers and one vector of the teacher per position, exact, without its distribution.

The teacher is its mean row of the head, e = W^T p (`vllm_mtp.kernels.ops.mean_embedding`, where the arithmetic is), and
depends on the frozen target alone. Computed once and kept over epochs and over the K steps that share a position, it
leaves the drafter's own logits and one product with W: two of the six products, and a softmax less.
objective.py is the same from the teacher's hidden states, for every objective.
"""

# Shapes: B sequences, T positions, K draft steps, D hidden size, N teacher rows that count.

from collections.abc import Callable

from torch import Tensor

from vllm_mtp.kernels import ops
from vllm_mtp.kernels.ops import LinearKL, Teacher
from vllm_mtp.module.shared_head import SharedHead
from vllm_mtp.training.loss.objective import Distillation, Places, states_at


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
    where: Places,
    teacher: Teacher,
    head: SharedHead,
    *,
    linear_kl: Callable[..., LinearKL] = ops.linear_kl,
) -> Distillation:
    """KL and agreement of K draft steps; `distillation` from objective.py with objective "kl", without overlap.

    Args:
        states_KBTD: the module's outputs (`unroll`); index k - 1 at position t predicts x_{t+k+1}.
        where: the places to compare at (`places`), on the device.
        teacher: of their rows.
        head: the target's head, cut to the draft vocabulary where there is one.
        linear_kl: that of vllm_mtp.kernels.ops, or its plain twin with a compiled chunk.

    Returns:
        Loss (differentiable with respect to states_KBTD) and agreement of each step.
    """
    found = linear_kl(
        states_at(states_KBTD, where.index_KN),
        teacher,
        head.head_VD,
        weights_KT=where.exists_KN,
        bias_V=head.bias_V,
        scale=head.transform.scale,
        metrics=True,
    )
    assert found.agreement is not None
    count_K = where.exists_KN.sum(-1).clamp(min=1)
    return Distillation(found.per_token.sum(-1) / count_K, found.agreement.sum(-1) / count_K)
