"""Speeds of each kind of results, their verdict, and the load at which it turns."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.benchmarks.report.results import serving, tuned
from tests.benchmarks.report.test_cost import gain
from vllm_mtp.benchmarks.report.gain import LOSES, OPEN, PAYS, best_by_load, break_even, gains_of
from vllm_mtp.benchmarks.report.source import Source


@pytest.mark.parametrize(
    ("speedup", "interval", "verdict"),
    [
        (1.2, (1.1, 1.3), PAYS),
        (1.2, (0.9, 1.5), OPEN),
        (0.8, (0.7, 0.9), LOSES),
        (1.2, None, PAYS),
        (1.03, None, OPEN),
        (0.9, None, LOSES),
    ],
)
def test_the_interval_decides(speedup: float, interval: tuple[float, float] | None, verdict: str) -> None:
    assert gain(speedup, interval).verdict == verdict


@pytest.mark.parametrize(
    ("speedups", "expected"),
    [
        ([(1, 2.0), (4, 1.2), (16, 0.8)], 8.0),
        ([(1, 1.5), (2, 0.5)], 2**0.5),
        ([(1, 0.5), (2, 1.25), (4, 0.75)], 2 * 2**0.5),
        ([(1, 2.0), (4, 0.8), (16, 1.1)], float("inf")),
        ([(1, 0.9), (4, 0.8)], 0.0),
    ],
)
def test_break_even(speedups: list[tuple[int, float]], expected: float) -> None:
    assert break_even(speedups) == pytest.approx(expected)


def test_the_best_at_each_load() -> None:
    baseline = replace(gain(3.0), is_drafter=False)
    some = [gain(1.2), replace(gain(1.4), method="mtp k = 5"), baseline, replace(gain(0.7), load=8)]
    assert [(one.load, one.speedup) for one in best_by_load(some)] == [(1, 1.4), (8, 0.7)]
    assert best_by_load(some, drafter=False) == [baseline]


def test_rows_of_servers_without_intervals() -> None:
    """As they were written before servers were repeated."""
    result = serving()
    for row in result["rows"]:
        row.pop("output_tokens_per_s_ratio", None), row.pop("output_tokens_per_s_ratio_95", None)
    found = gains_of(Source(kind="serving", path=Path("r"), result=result))
    assert [(one.load, one.speedup, one.speedup_95) for one in found] == [
        (1, 2.0, None),
        (2, 1.0, None),
        (8, 0.5, None),
    ]


def test_one_turn_of_a_verification_has_no_interval() -> None:
    result = tuned()
    [several] = gains_of(Source(kind="tune", path=Path("r"), result=result))
    assert (several.speedup, several.speedup_95) == (1.5, (1.3, 1.7))
    result["verification"][0]["num_turns"] = 1
    [one] = gains_of(Source(kind="tune", path=Path("r"), result=result))
    assert one.speedup_95 is None
