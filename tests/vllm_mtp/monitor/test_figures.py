"""Catches: an interval that does not hold what it should, a gain without a cost, a division by no rounds at all."""

import numpy as np
import pytest

from tests.vllm_mtp.monitor.cases import traffic
from vllm_mtp.benchmarks.harness.acceptance import Acceptance
from vllm_mtp.monitor.figures import figures_of, first_positions, length_interval, rate_interval


def test_figures_of_ten_seconds() -> None:
    found = figures_of(traffic(100, 60, 30, 10), round_cost=1.6)
    assert (found.tokens_per_s, found.rounds_per_s, found.latency_ms) == (100, 10, 30)
    assert found.acceptance_length == 2.0
    assert found.acceptance_rate_per_position == [0.6, 0.3, 0.1]
    assert found.conditional_acceptance_rate_per_position == pytest.approx([0.6, 0.5, 1 / 3])
    assert found.wasted_share == pytest.approx(1 - 100 / 300)
    assert found.estimated_gain == pytest.approx(1.25)
    assert figures_of(traffic(100, 60, 30, 10), round_cost=None).estimated_gain is None


@pytest.mark.parametrize("nothing", [traffic(0, 0, 0, 0), traffic(0)])
def test_nothing_drafted_is_no_figure(nothing: object) -> None:
    found = figures_of(nothing, round_cost=1.5)  # type: ignore[arg-type]
    assert found.acceptance_length is found.wasted_share is found.estimated_gain is None
    assert found.tokens_per_s == 100


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """400 samples each: below 90% would come up about once in 10,000 runs of a right interval; the seed is fixed."""
    random = np.random.default_rng(0)
    hits = dict.fromkeys(("length", "rate"), 0)
    for _ in range(400):
        accepted_N = (random.random((600, 3)) < 0.6).cumprod(axis=1).sum(axis=1)
        counts = tuple(int((accepted_N > position).sum()) for position in range(3))
        sample = Acceptance(num_drafts=600, num_draft_tokens=1800, num_accepted_tokens_per_position=counts)
        low, high = length_interval(sample)
        hits["length"] += low <= 1 + 0.6 + 0.36 + 0.216 <= high
        low, high = rate_interval(counts[2] / 600, 600)
        hits["rate"] += low <= 0.216 <= high
    assert all(360 <= count < 397 for count in hits.values()), hits


def test_a_rate_of_zero_has_an_upper_bound() -> None:
    assert rate_interval(0.0, 100)[0] == 0
    assert 0.01 < rate_interval(0.0, 100)[1] < 0.05


def test_a_shorter_draft_is_the_beginning_of_a_longer_one() -> None:
    acceptance = traffic(100, 60, 30, 10).acceptance
    assert acceptance is not None
    assert first_positions(acceptance, 2).acceptance_length == pytest.approx(1.9)
