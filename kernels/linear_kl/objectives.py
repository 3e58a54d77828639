"""How far a drafter's distribution q = softmax(z) is from the teacher's p, row by row, and the gradient in z.

    kl    sum_v p_v (log p_v - log q_v)      q - p
    lm    -log q_y,  y the text's token      q - onehot(y)
    tv    1 - o,  o = sum_v min(p_v, q_v)    q (sum_v q_v [q_v < p_v] - [q < p])
    lk    -log o                             the same, divided by o

o is the overlap, the share of drafted tokens that rejection sampling accepts: tv and lk train for it itself, kl for a
bound of it. Where q_v = p_v, min has no derivative, and zero is taken.

Source of lk: Samarin et al., LK Losses (arXiv 2602.23881), its pure form.
"""

# Shapes: C rows, V vocabulary.

from typing import NamedTuple

import torch
from torch import Tensor

OBJECTIVES = ("kl", "lm", "tv", "lk")


class Distribution(NamedTuple):
    """Probabilities of rows, both ways."""

    log_CV: Tensor
    p_CV: Tensor

    @classmethod
    def from_logits(cls, logits_CV: Tensor) -> "Distribution":
        log_CV = logits_CV.log_softmax(-1)
        return cls(log_CV, log_CV.exp())


def value_and_gradient(
    objective: str, student: Distribution, teacher: Distribution | None, labels_C: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Value [C] and its gradient with respect to the drafter's logits [C, V].

    Args:
        objective: one of OBJECTIVES.
        student: q.
        teacher: p; not needed for "lm".
        labels_C: a token of every row, for "lm".
    """
    log_q_CV, q_CV = student
    if objective == "lm":
        assert labels_C is not None
        labels_C1 = labels_C[:, None]
        gradient_CV = q_CV.scatter_add(-1, labels_C1, q_CV.new_full(labels_C1.shape, -1.0))
        return -log_q_CV.gather(-1, labels_C1).squeeze(-1), gradient_CV
    assert teacher is not None
    log_p_CV, p_CV = teacher
    if objective == "kl":
        return (p_CV * (log_p_CV - log_q_CV)).sum(-1), q_CV - p_CV
    overlap_C = torch.minimum(p_CV, q_CV).sum(-1)
    below_CV = (q_CV < p_CV).to(q_CV.dtype)
    gradient_CV = q_CV * ((q_CV * below_CV).sum(-1, keepdim=True) - below_CV)
    if objective == "tv":
        return 1 - overlap_C, gradient_CV
    assert objective == "lk"
    return -overlap_C.log(), gradient_CV / overlap_C[:, None]
