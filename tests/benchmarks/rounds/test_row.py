"""Catches: shares of single rounds averaged, as if short rounds counted as much as long ones."""

import pytest

from tests.benchmarks.records import record
from vllm_mtp.benchmarks.rounds.row import row_of
from vllm_mtp.benchmarks.rounds.trace import PARTS


def a_round(target: float, rest: float) -> dict[str, float]:
    return dict.fromkeys(PARTS, 0.0) | {"target": target, "rest": rest}


def test_shares_are_of_all_time_together() -> None:
    passes = [([record([1, 2], seconds=2.0)], [record([1, 2], seconds=3.0)])] * 2
    row = row_of(passes, [a_round(90.0, 10.0), a_round(10.0, 10.0)])
    assert row["num_rounds"] == 2
    assert row["shares"]["target"] == pytest.approx(100 / 120, abs=1e-4)
    assert sum(row["shares"].values()) == pytest.approx(1, abs=1e-3)
    low, high = row["shares_95"]["target"]
    assert (low, high) == (0.5, 0.9)
    assert (row["time_with_profiler"], row["time_with_profiler_95"]) == (1.5, (1.5, 1.5))


def test_a_profile_without_rounds_is_refused() -> None:
    with pytest.raises(ValueError, match="give a larger max_tokens"):
        row_of([([record([1])], [record([1])])], [])
