"""Sampling and verification: exact, by the distribution that top_k and top_p leave."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from vllm_mtp.benchmarks.simulation.sampler import Sampler

CUTS: list[dict[str, Any]] = [{}, {"top_k": 3}, {"top_p": 0.7}, {"top_k": 5, "top_p": 0.8}, {"top_p": 0.01}]


def logits(draft_ids: Sequence[int] = range(8)) -> tuple[Tensor, Tensor]:
    """The target's and the drafter's; the drafter gives draft_ids alone."""
    generator = torch.Generator().manual_seed(0)
    target_logits_V = torch.randn(8, generator=generator)
    draft_logits_V = torch.randn(8, generator=generator)
    draft_logits_V[[i for i in range(8) if i not in draft_ids]] = float("-inf")
    return target_logits_V, draft_logits_V


@pytest.mark.parametrize(("temperature", "draft_ids"), [(0.7, range(8)), (1.0, range(8)), (1.0, (1, 4, 5))])
@pytest.mark.parametrize("cut", CUTS, ids=str)
def test_rejection_sampling_keeps_the_distribution(
    temperature: float, draft_ids: Sequence[int], cut: dict[str, Any]
) -> None:
    """Accept with min(1, p / q), recover from max(p - q, 0): together p. False alarms: one in 10,000 per case."""
    target_logits_V, draft_logits_V = logits(draft_ids)
    sampler = Sampler(temperature, seed=1, **cut)
    counts_V = torch.zeros(8)
    num_accepted, num_draws = 0, 2000
    for _ in range(num_draws):
        draft = sampler.draft(draft_logits_V)
        accepted = sampler.accepts(draft, target_logits_V, draft_logits_V)
        num_accepted += accepted
        counts_V[draft if accepted else sampler.recover(target_logits_V, draft_logits_V)] += 1
    p, q = sampler.of_target(target_logits_V), sampler.of_draft(draft_logits_V)
    assert counts_V[p == 0].sum() == 0, "what top_k and top_p leave out never comes"
    assert num_accepted / num_draws == pytest.approx(float(torch.minimum(p, q).sum()), abs=0.04)
    left = p > 0
    if left.sum() > 1:
        expected = (p[left] / p.sum() * num_draws).double().numpy()
        assert stats.chisquare(counts_V[left].numpy(), expected, sum_check=False).pvalue > 1e-4


@pytest.mark.vllm
@pytest.mark.parametrize("cut", CUTS, ids=str)
def test_the_same_tokens_are_left_as_by_vllm(cut: dict[str, Any]) -> None:
    from vllm.v1.sample.ops.topk_topp_sampler import apply_top_k_top_p_pytorch

    generator = torch.Generator().manual_seed(2)
    for _ in range(20):
        logits_V = 3 * torch.randn(50, generator=generator)
        k = torch.tensor([cut["top_k"]]) if "top_k" in cut else None
        p = torch.tensor([cut["top_p"]]) if "top_p" in cut else None
        expected_V = apply_top_k_top_p_pytorch(logits_V[None].clone() / 0.7, k, p)[0].softmax(-1)
        torch.testing.assert_close(Sampler(0.7, 0, **cut).of_target(logits_V), expected_V)
