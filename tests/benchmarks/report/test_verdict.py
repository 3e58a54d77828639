"""What is said of a drafter's speed.

Catches: a load of which nothing is said, an interval where a speed has none, a baseline that is faster and not told.
"""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.benchmarks.report.results import served, serving
from tests.benchmarks.report.test_cost import gain
from vllm_mtp.benchmarks.report.gain import Gain, Interval
from vllm_mtp.benchmarks.report.source import Source
from vllm_mtp.benchmarks.report.verdict import groups, listed, verdict_of, where_it_turns


def at(load: int, speedup: float, interval: Interval | None = None) -> Gain:
    return replace(gain(speedup, interval), load=load)


def test_every_load_has_its_verdict() -> None:
    some = [at(1, 2.0, (1.8, 2.2)), at(2, 1.5, (1.4, 1.6)), at(4, 1.0, (0.9, 1.1)), at(8, 0.8, (0.7, 0.9))]
    expected = "Does it pay? It pays at 1 and 2; at 4 that cannot be told; it costs speed at 8 (requests at once)"
    assert verdict_of(some) == expected
    assert verdict_of(some[3:]) == "Does it pay? It costs speed at 8 (requests at once)"


def test_break_even_has_the_interval_of_the_speeds() -> None:
    # By the middle 1 at 8 = 4 x 4^0.5; by the low ends at 1 x 4^0.5; by the high ends beyond.
    some = [at(1, 2.0, (1.1, 2.2)), at(4, 1.2, (0.9, 1.4)), at(16, 0.8, (0.7, 1.1))]
    assert where_it_turns(some) == "Break-even: about 8.0 (95%: about 2.0 to beyond 16) requests at once."
    assert where_it_turns([at(1, 2.0), at(4, 0.5, (0.4, 0.6))]) == "Break-even: about 2.5 requests at once."
    assert where_it_turns([at(2, 0.9), at(4, 0.8)]) == "Break-even: below 2 requests at once."
    assert where_it_turns(2 * [at(2, 1.2, (1.1, 1.3))]) == "Break-even: beyond 2 requests at once."
    assert where_it_turns([at(2, 0.9)]) == ""


def test_what_needs_no_drafter_stands_beside_it() -> None:
    result = serving()
    result["rows"].append(served("ngram", 5, 8, 300.0))
    [group] = groups([Source(kind="serving", path=Path("r"), result=result)])
    assert [one.load for one in group.drafter] == [1, 2, 8]
    assert [(one.load, one.speedup) for one in group.baselines] == [(8, 1.5)]


@pytest.mark.parametrize(("words", "expected"), [([], ""), (["1"], "1"), (["1", "2", "4"], "1, 2 and 4")])
def test_lists(words: list[str], expected: str) -> None:
    assert listed(words) == expected
