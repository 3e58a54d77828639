"""The objective: loss, measures and gradient against float64 autograd on full logits, and what is never materialised.

Catches: a chunk boundary that drops or repeats a position, a step compared with another position's teacher, a wrong
label, a gradient without cap or scale, per-step weights that are lost in backward, a chain that multiplies another
chain's steps, logits of all tokens at once.
"""

# Shapes: B sequences, T positions, K draft steps, S = T + K teacher positions, D hidden size, V vocabulary.

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vllm_mtp.kernels import reference
from vllm_mtp.module.shared_head import LogitsTransform, SharedHead
from vllm_mtp.training.config import OBJECTIVES
from vllm_mtp.training.loss.objective import Distillation, Places, distillation, places

B, T, K, D, V = 2, 7, 3, 6, 13
HEADS = {
    "plain": (LogitsTransform(), False),
    "cap, scale and bias": (LogitsTransform(scale=0.7, soft_cap=2.0), True),
    "scale": (LogitsTransform(scale=1 / 3), False),
}
LOGITS: dict[str, Callable[[Tensor], Tensor]] = {  # written out, apart from LogitsTransform
    "plain": lambda raw: raw,
    "cap, scale and bias": lambda raw: 0.7 * 2.0 * torch.tanh(raw / 2.0),
    "scale": lambda raw: raw / 3,
}


def random_inputs(head_name: str) -> tuple[Tensor, Tensor, Tensor, SharedHead]:
    generator = torch.Generator().manual_seed(0)
    states_KBTD = torch.randn(K, B, T, D, generator=generator)
    hidden_BSD = torch.randn(B, T + K, D, generator=generator)
    labels_BS = torch.randint(V, (B, T + K), generator=generator)
    table_VD, bias_V = torch.randn(V, D, generator=generator), torch.randn(V, generator=generator)
    transform, has_bias = HEADS[head_name]
    head = SharedHead(embedding_VD=table_VD, head_VD=table_VD, bias_V=bias_V if has_bias else None, transform=transform)
    return states_KBTD, hidden_BSD, labels_BS, head


def everywhere(labels_BS: Tensor, num_steps: int = K, objective: str = "kl") -> Places:
    return places(torch.ones_like(labels_BS, dtype=torch.bool), num_steps, labels_BS if objective == "lm" else None)


def plain(
    states_KBTD: Tensor, hidden_BSD: Tensor, labels_BS: Tensor, head: SharedHead, head_name: str, objective: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, agreement and overlap of each step, position by position, on full float64 logits."""
    bias_V = 0.0 if head.bias_V is None else head.bias_V.double()

    def log_probabilities(state_D: Tensor) -> Tensor:
        return LOGITS[head_name](head.head_VD.double() @ state_D + bias_V).log_softmax(-1)

    sums_K3 = torch.zeros(K, 3, dtype=torch.float64)
    for b in range(B):
        for t in range(T):
            accepted = torch.ones((), dtype=torch.float64)
            for k in range(1, K + 1):
                log_q = log_probabilities(states_KBTD[k - 1, b, t])
                log_p = log_probabilities(hidden_BSD[b, t + k].double())
                overlap = torch.minimum(log_q.exp(), log_p.exp()).sum()
                accepted = accepted * overlap
                loss = {
                    "kl": torch.nn.functional.kl_div(log_q, log_p, log_target=True, reduction="sum"),
                    "lm": -log_q[labels_BS[b, t + k]],
                    "tv": (log_q.exp() - log_p.exp()).abs().sum() / 2,
                    "lk": -overlap.log(),
                    "e2e-tv": 1 - accepted,
                }[objective]
                found_3 = torch.stack([loss, (log_q.argmax() == log_p.argmax()).double(), overlap.detach()])
                sums_K3 = sums_K3.index_add(0, torch.tensor([k - 1]), found_3[None])
    loss_K, agreement_K, overlap_K = (sums_K3 / (B * T)).unbind(1)
    return loss_K, agreement_K.detach(), overlap_K.detach()


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("head_name", HEADS)
@pytest.mark.parametrize("chunk_size", [1, 3, 4, 18, 64])  # of B (T + K - 1) = 18 teacher rows
def test_against_float64_autograd(objective: str, head_name: str, chunk_size: int) -> None:
    states_KBTD, hidden_BSD, labels_BS, head = random_inputs(head_name)
    weights_K = torch.tensor([0.5, -2.0, 0.25])  # what comes from above, one for each step

    exact_KBTD = states_KBTD.double().requires_grad_()
    expected = Distillation(*plain(exact_KBTD, hidden_BSD, labels_BS, head, head_name, objective))
    (expected.loss_K * weights_K).sum().backward()

    states_KBTD.requires_grad_()
    where = everywhere(labels_BS, objective=objective)
    found = distillation(
        states_KBTD, hidden_BSD, where, head, objective=objective, chunk_size=chunk_size, by_state=True
    )
    (found.loss_K * weights_K).sum().backward()

    assert found.agrees_KBT is not None
    torch.testing.assert_close(found.agrees_KBT.float().mean((1, 2)), found.agreement_K)
    for name in ("loss_K", "agreement_K", "overlap_K"):
        torch.testing.assert_close(getattr(found, name).double(), getattr(expected, name), rtol=1e-5, atol=1e-6)
    assert 0 < expected.agreement_K.sum() < K
    assert states_KBTD.grad is not None
    assert exact_KBTD.grad is not None
    torch.testing.assert_close(states_KBTD.grad.double(), exact_KBTD.grad, rtol=1e-4, atol=1e-7)


def test_a_chain_goes_on_over_a_step_that_does_not_count() -> None:
    states_KBTD, hidden_BSD, _, head = random_inputs("plain")
    mask_BS = torch.ones(B, T + K, dtype=torch.bool)
    mask_BS[0, 4] = False  # predicted by step 1 of position 3, step 2 of position 2 and step 3 of position 1
    found = distillation(states_KBTD, hidden_BSD, places(mask_BS, K), head, objective="e2e-tv", by_state=True)

    def overlap(k: int, b: int, t: int) -> Tensor:
        logits_2V = torch.stack([states_KBTD[k - 1, b, t], hidden_BSD[b, t + k]]) @ head.head_VD.T
        return torch.ones(()) if (b, t + k) == (0, 4) else logits_2V.softmax(-1).amin(0).sum()

    chains = [[overlap(k, b, t) for k in (1, 2, 3)] for b in range(B) for t in range(T)]
    rejected_PK = 1 - torch.tensor(chains).cumprod(1)
    counts_PK = torch.tensor([[(b, t + k) != (0, 4) for k in (1, 2, 3)] for b in range(B) for t in range(T)])
    expected_K = (rejected_PK * counts_PK).sum(0) / counts_PK.sum(0)
    torch.testing.assert_close(found.loss_K, expected_K)
    assert found.agrees_KBT is not None
    assert [bool(found.agrees_KBT[k - 1, 0, 4 - k]) for k in (1, 2, 3)] == [False] * 3


def test_kl_of_the_targets_own_states_is_zero() -> None:
    _, hidden_BSD, labels_BS, head = random_inputs("cap, scale and bias")
    states_KBTD = torch.stack([hidden_BSD[:, k : k + T] for k in range(1, K + 1)]).requires_grad_()
    found = distillation(states_KBTD, hidden_BSD, everywhere(labels_BS), head)
    found.loss_K.sum().backward()
    torch.testing.assert_close(found.loss_K, torch.zeros(K), rtol=0, atol=1e-6)
    assert found.overlap_K is not None
    torch.testing.assert_close(found.overlap_K, torch.ones(K), rtol=0, atol=1e-5)
    assert found.agreement_K.tolist() == [1.0] * K
    assert states_KBTD.grad is not None
    assert states_KBTD.grad.abs().max() < 1e-6


def test_bfloat16_head_and_states() -> None:
    states_KBTD, hidden_BSD, labels_BS, head = random_inputs("plain")
    rounded_VD = head.head_VD.bfloat16()
    rounded = SharedHead(embedding_VD=rounded_VD, head_VD=rounded_VD)
    exact = distillation(states_KBTD, hidden_BSD, everywhere(labels_BS), head)
    found = distillation(states_KBTD.bfloat16().requires_grad_(), hidden_BSD.bfloat16(), everywhere(labels_BS), rounded)
    assert found.loss_K.dtype == torch.float32
    torch.testing.assert_close(found.loss_K, exact.loss_K, rtol=0.05, atol=0.05)
    states_KBTD = states_KBTD.bfloat16().requires_grad_()
    distillation(states_KBTD, hidden_BSD.bfloat16(), everywhere(labels_BS), rounded).loss_K.sum().backward()
    assert states_KBTD.grad is not None
    assert states_KBTD.grad.dtype == torch.bfloat16


def test_without_gradient_nothing_is_kept() -> None:
    states_KBTD, hidden_BSD, labels_BS, head = random_inputs("plain")
    with torch.no_grad():
        found = distillation(states_KBTD.requires_grad_(), hidden_BSD, everywhere(labels_BS), head)
    assert not found.loss_K.requires_grad
    with_gradient = distillation(states_KBTD, hidden_BSD, everywhere(labels_BS), head)
    assert with_gradient.loss_K.requires_grad
    assert not with_gradient.agreement_K.requires_grad
    assert torch.equal(found.loss_K, with_gradient.loss_K)


def test_no_tensor_of_all_tokens_times_vocabulary_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vllm_mtp.training.loss.objective.linear_kl", reference.linear_kl)  # no operator to look into
    num_positions, vocab_size, chunk_size = 50, 1009, 4
    states_KBTD = torch.randn(2, 2, num_positions, D).requires_grad_()
    hidden_BSD = torch.randn(2, num_positions + 2, D)
    labels_BS = torch.randint(vocab_size, (2, num_positions + 2))
    table_VD = torch.randn(vocab_size, D)
    sizes = LargestTensor(table_VD)
    with sizes:
        result = distillation(
            states_KBTD,
            hidden_BSD,
            everywhere(labels_BS, 2),
            SharedHead(embedding_VD=table_VD, head_VD=table_VD),
            chunk_size=chunk_size,
        )
        result.loss_K.sum().backward()
    assert sizes.num_rows == chunk_size


class LargestTensor(TorchDispatchMode):
    """Watches every operation of torch: the most rows of a result as wide as the vocabulary, the head apart."""

    def __init__(self, table_VD: Tensor) -> None:
        super().__init__()
        self.table_VD, self.num_rows = table_VD, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if not isinstance(tensor, Tensor) or self.table_VD.size(0) not in tensor.shape:
                continue
            if tensor.untyped_storage().data_ptr() != self.table_VD.untyped_storage().data_ptr():
                self.num_rows = max(self.num_rows, tensor.numel() // self.table_VD.size(0))
        return result
