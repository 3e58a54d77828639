"""Intervals over runs and prompts against answers known otherwise."""

import numpy as np
import pytest
from scipy import stats

from vllm_mtp.benchmarks.harness.statistics import _T, Ratio, difference, estimate, quotient, relative_difference


def constant(values: list[float], num_prompts: int = 5) -> Ratio:
    """Runs with these values on every prompt: no spread over prompts."""
    return Ratio(above_RP=[[10 * v] * num_prompts for v in values], below_RP=[[10] * num_prompts for _ in values])


def test_quantiles_of_student_t() -> None:
    assert pytest.approx([stats.t.ppf(0.975, n) for n in range(1, len(_T) + 1)], abs=6e-4) == list(_T)


def test_many_runs_go_on_where_the_table_ends() -> None:
    values = [float(n) for n in range(20)]
    found = estimate(constant(values))
    expected = stats.t.interval(0.95, 19, np.mean(values), stats.sem(values))
    assert (found.low, found.high) == pytest.approx(expected, rel=0.01)


def test_without_spread_over_prompts_it_is_the_paired_t_interval() -> None:
    one, two = [3.0, 3.4, 3.1], [2.5, 2.8, 2.7]
    found = difference(constant(one), constant(two))
    expected = stats.ttest_rel(one, two).confidence_interval(0.95)
    assert found.mean == pytest.approx(0.5)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-3)


def test_with_one_run_it_is_the_interval_over_prompts() -> None:
    above_P = np.random.default_rng(1).normal(20, 4, size=200)
    found = estimate(Ratio(above_RP=[above_P], below_RP=[[10.0] * 200], offset=1.0))
    assert found.mean == pytest.approx(1 + above_P.mean() / 10)
    assert found.high - found.mean == pytest.approx(1.96 * stats.sem(above_P) / 10, rel=0.1)


def test_prompts_are_paired() -> None:
    """Prompts that differ much, but alike in both arms, leave no doubt about the difference."""
    above_P = np.random.default_rng(1).normal(20, 8, size=50)
    one, two = (Ratio(above_RP=[above_P + shift], below_RP=[[10.0] * 50]) for shift in (1.0, 0.0))
    assert estimate(one).low < estimate(two).high
    assert difference(one, two).low > 0
    assert difference(two, one).high < 0


def test_sums_not_means_of_ratios() -> None:
    found = estimate(Ratio(above_RP=[[1, 30]], below_RP=[[10, 10]], offset=1.0))
    assert found.mean == pytest.approx(1 + 31 / 20)


def test_relative_difference() -> None:
    found = relative_difference(constant([110.0, 120.0]), constant([100.0, 100.0]))
    assert found.of_runs == pytest.approx((0.1, 0.2))


def test_a_quotient_is_the_same_from_either_side() -> None:
    """And above zero, however few runs there are."""
    one, two = constant([50.0, 200.0]), constant([100.0, 100.0])
    found, other = quotient(one, two), quotient(two, one)
    assert found.of_runs == pytest.approx((0.5, 2.0))
    assert found.mean == pytest.approx(1)
    assert (found.low, found.high) == pytest.approx((1 / other.high, 1 / other.low))
    expected = stats.t.interval(0.95, 1, 0, stats.sem(np.log([0.5, 2.0])))
    assert (np.log(found.low), np.log(found.high)) == pytest.approx(expected, rel=1e-3)


def test_coverage() -> None:
    """Runs and prompts both vary: the true mean lies in about 57 of 60 intervals, or more, never in far fewer."""
    generator = np.random.default_rng(2)
    inside = 0
    for _ in range(60):
        of_runs_R, of_prompts_P = generator.normal(0, 0.1, 3), generator.normal(0, 1, 40)
        above_RP = 3 + of_runs_R[:, None] + of_prompts_P + generator.normal(0, 0.5, (3, 40))
        found = estimate(Ratio(above_RP=above_RP, below_RP=np.ones((3, 40))))
        inside += found.low < 3 < found.high
    assert inside >= 54
