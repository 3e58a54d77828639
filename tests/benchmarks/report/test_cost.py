"""Costs and break-even against numbers worked out by hand."""

import pytest

from vllm_mtp.benchmarks.report.cost import cost_of, cost_per_million, hours_to_pay_back, speedup_that_pays
from vllm_mtp.benchmarks.report.gain import Gain, Interval


def gain(speedup: float, interval: Interval | None = None) -> Gain:
    return Gain(
        method="mtp k = 3",
        is_drafter=True,
        temperature=0.0,
        load=1,
        plain_tokens_per_s=100.0,
        speedup=speedup,
        speedup_95=interval,
    )


def test_cost_of_a_million_tokens() -> None:
    # 1,000,000 tokens at 250 a second: 4,000 seconds, 1.111 hours.
    assert cost_per_million(250.0, 2.25) == pytest.approx(2.5)


def test_cost_with_drafts_has_the_interval_of_the_speedup() -> None:
    # Without: 10,000 seconds at 7.2 an hour.
    found = cost_of(gain(1.6, (1.25, 2.0)), 7.2)
    assert (found.without, found.with_drafts) == (pytest.approx(20.0), pytest.approx(12.5))
    assert found.with_drafts_95 == (pytest.approx(10.0), pytest.approx(16.0))
    assert cost_of(gain(1.6), 7.2).with_drafts_95 is None
    assert cost_of(gain(1.6, (0.0, 3.2)), 7.2).with_drafts_95 is None, "no cost is that high"


def test_training_is_paid_back_by_what_hours_save() -> None:
    # Each hour does the work of 1.5 hours, and saves half of 4.
    assert hours_to_pay_back(100.0, 4.0, 1.5) == pytest.approx(50.0)
    assert hours_to_pay_back(100.0, 4.0, 1.0) is None
    assert hours_to_pay_back(100.0, 4.0, 0.9) is None


def test_the_speedup_that_pays_is_the_one_paid_back_in_that_time() -> None:
    needed = speedup_that_pays(100.0, 4.0, 250.0)
    assert needed == pytest.approx(1.1)
    assert hours_to_pay_back(100.0, 4.0, needed) == pytest.approx(250.0)
