"""The KL loss by mean embeddings equals the plain objective: loss, agreement and gradient.

Catches: a bias or scale that is left out of the constant or the gradient, a row scored against another row's teacher, a
masked position that counts, padding of the last chunk that leaks into the sums.
"""

# Shapes: B sequences, T positions, K draft steps, S = T + K teacher positions, D hidden size, V vocabulary, J draft
# vocabulary.

import functools

import pytest
import torch

from vllm_mtp.kernels import ops, reference
from vllm_mtp.module.shared_head import LogitsTransform, SharedHead
from vllm_mtp.training.loss.mean_embedding import mean_embedding_kl, teacher_of
from vllm_mtp.training.loss.objective import WholeHead, distillation, places

B, T, K, D, V = 3, 7, 3, 6, 23
DRAFT_IDS_J = torch.tensor([0, 2, 3, 7, 11, 12, 19, 22])


def inputs(*, scale: float = 1.0, bias: bool = False) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, SharedHead]:
    generator = torch.Generator().manual_seed(1)
    table_VD, bias_V = torch.randn(V, D, generator=generator), torch.randn(V, generator=generator)
    head = SharedHead(
        embedding_VD=table_VD,
        head_VD=table_VD,
        bias_V=bias_V if bias else None,
        transform=LogitsTransform(scale=scale),
    )
    states_KBTD = torch.randn(K, B, T, D, generator=generator)
    hidden_BSD = torch.randn(B, T + K, D, generator=generator)
    mask_BS = torch.rand(B, T + K, generator=generator) < 0.7
    return states_KBTD, hidden_BSD, mask_BS, head


@pytest.mark.parametrize(("scale", "bias"), [(1.0, False), (0.3, True)])
@pytest.mark.parametrize("draft_ids_J", [None, DRAFT_IDS_J])
@pytest.mark.parametrize("chunk_size", [5, 512])
def test_against_the_plain_objective(
    scale: float, bias: bool, draft_ids_J: torch.Tensor | None, chunk_size: int
) -> None:
    states_KBTD, hidden_BSD, mask_BS, whole = inputs(scale=scale, bias=bias)
    head = whole.cut(draft_ids_J)
    weights_K = torch.tensor([0.5, -2.0, 0.25])

    plain_KBTD = states_KBTD.clone().requires_grad_()
    plain = distillation(plain_KBTD, hidden_BSD, places(mask_BS, K), head)
    (plain.loss_K * weights_K).sum().backward()

    where = places(mask_BS, K)
    teacher = teacher_of(hidden_BSD.flatten(0, 1)[where.rows_N], head, chunk_size=chunk_size)
    states_KBTD.requires_grad_()
    linear_kl = functools.partial(ops.linear_kl, chunk_size=chunk_size)
    found = mean_embedding_kl(states_KBTD, where, teacher, head, linear_kl=linear_kl)
    (found.loss_K * weights_K).sum().backward()

    torch.testing.assert_close(found.loss_K, plain.loss_K, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.agreement_K, plain.agreement_K)
    assert found.overlap_K is None
    assert states_KBTD.grad is not None
    assert plain_KBTD.grad is not None
    assert plain_KBTD.grad.abs().max() > 0
    torch.testing.assert_close(states_KBTD.grad, plain_KBTD.grad, rtol=1e-4, atol=1e-6)


def test_no_position_that_counts() -> None:
    states_KBTD, hidden_BSD, mask_BS, head = inputs()
    where = places(torch.zeros_like(mask_BS), K)
    teacher = teacher_of(hidden_BSD.flatten(0, 1)[where.rows_N], head)
    found = mean_embedding_kl(states_KBTD.requires_grad_(), where, teacher, head)
    found.loss_K.sum().backward()
    assert found.loss_K.tolist() == [0.0] * K
    assert states_KBTD.grad is not None
    assert not states_KBTD.grad.any()


def test_every_chunk_has_one_shape() -> None:
    shapes = set()

    def chunk(states_CD, *rest):  # type: ignore[no-untyped-def]
        shapes.add(tuple(states_CD.shape))
        return reference.softmax_chunk(states_CD, *rest)

    states_KBTD, hidden_BSD, mask_BS, head = inputs()
    where = places(mask_BS, K)
    linear_kl = functools.partial(reference.linear_kl_by_chunks(chunk), chunk_size=8)
    teacher = teacher_of(hidden_BSD.flatten(0, 1)[where.rows_N], head)
    found = mean_embedding_kl(states_KBTD, where, teacher, head, linear_kl=linear_kl)
    assert shapes == {(8, D)}
    torch.testing.assert_close(found, mean_embedding_kl(states_KBTD, where, teacher, head))


def test_measures_against_the_whole_vocabulary() -> None:
    states_KBTD, hidden_BSD, mask_BS, whole = inputs()
    head, where = whole.cut(DRAFT_IDS_J), places(mask_BS, K)
    inside = distillation(states_KBTD, hidden_BSD, where, head)
    found = distillation(states_KBTD, hidden_BSD, where, head, whole=WholeHead(whole, DRAFT_IDS_J), chunk_size=4)
    agreement = overlap = count = 0.0
    for b in range(B):
        for t in range(T):
            if mask_BS[b, t + 1]:
                p_V = whole.logits(hidden_BSD[b, t + 1]).softmax(-1)
                q_J = head.logits(states_KBTD[0, b, t]).softmax(-1)
                agreement += float(DRAFT_IDS_J[q_J.argmax()] == p_V.argmax())
                overlap += float(torch.minimum(p_V[DRAFT_IDS_J], q_J).sum())
                count += 1
    assert found.overlap_K is not None
    assert float(found.agreement_K[0]) == pytest.approx(agreement / count)
    assert float(found.overlap_K[0]) == pytest.approx(overlap / count, rel=1e-4)
    assert torch.equal(found.loss_K, inside.loss_K) or torch.allclose(found.loss_K, inside.loss_K)
    assert not torch.equal(found.agreement_K, inside.agreement_K)
