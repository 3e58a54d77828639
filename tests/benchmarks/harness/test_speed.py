"""Speed against a baseline measured in turn."""

import pytest

from tests.benchmarks.records import record
from vllm_mtp.benchmarks.harness.method import mtp
from vllm_mtp.benchmarks.harness.record import Record
from vllm_mtp.benchmarks.harness.speed import Pair, speed_row
from vllm_mtp.common.bootstrap import ratio_interval

IDS = list(range(10))


def records_of(seconds: list[float]) -> list[Record]:
    return [record(IDS, seconds=one, number=number) for number, one in enumerate(seconds)]


def pair_of(speedups: list[float]) -> Pair:
    return records_of([1 / one for one in speedups]), records_of([1.0] * len(speedups))


def test_speed_and_interval_are_of_pairs() -> None:
    """Prompts of very different length with one ratio: the interval has no width, apart it would be wide."""
    baseline, faster = records_of([2.0**n for n in range(6)]), records_of([2.0**n / 2 for n in range(6)])
    row = speed_row(mtp(3), 0.0, 1, [(faster, baseline)])
    assert (row["speedup"], row["speedup_95"]) == (2.0, (2.0, 2.0))
    assert row["output_tokens_per_second"] == pytest.approx(60 / 31.5, abs=0.01)
    assert row["tasks"]["qa"]["speedup"] == 2.0


def test_a_batch_is_one_sample() -> None:
    """Three prompts of a batch finish together; resampled one by one they would look like three measurements."""
    baseline, drafted = records_of([1.0] * 4), records_of([1.0, 1.0, 3.0, 3.0])
    row = speed_row(mtp(3), 0.0, 2, [(drafted, baseline)])
    assert row["speedup_95"] == (pytest.approx(1 / 3, abs=1e-3), 1.0)
    assert "tasks" not in row


def test_one_pair_is_what_it_always_was() -> None:
    """Rows that were measured before there were several pairs keep their interval, to the digit."""
    drafted, baseline = pair_of([1.0, 1.5, 2.0, 2.5, 1.2])
    row = speed_row(mtp(3), 0.0, 1, [(drafted, baseline)])
    seconds, without = ([one.seconds for one in some] for some in (drafted, baseline))
    assert row["speedup_95"] == tuple(round(bound, 3) for bound in ratio_interval(without, seconds))
    assert (row["num_pairs"], row["speedup_of_pairs"]) == (1, [row["speedup"]])


def test_the_interval_is_over_pairs() -> None:
    """Prompts with one ratio in each pair: an interval over prompts alone would have no width."""
    row = speed_row(mtp(3), 0.0, 1, [pair_of([1.25] * 20), pair_of([2.0] * 20)])
    assert row["speedup_95"] == (1.25, 2.0)
    assert row["speedup_of_pairs"] == [1.25, 2.0]
    assert row["speedup"] == pytest.approx(2 / (1 / 1.25 + 1 / 2), abs=1e-3)
    assert (row["num_prompts"], row["num_pairs"], row["tasks"]["qa"]["num_prompts"]) == (20, 2, 20)
    assert row["output_tokens_per_second"] == pytest.approx(400 / (20 / 1.25 + 20 / 2), abs=0.01)


def test_measuring_the_same_prompts_again_makes_them_no_more() -> None:
    """Four equal pairs tell nothing new of prompts: prompts drawn for each pair apart would halve the interval."""
    speedups = [1.0 + 0.1 * n for n in range(20)]
    (low, high), (low_of_four, high_of_four) = (
        speed_row(mtp(3), 0.0, 1, [pair_of(speedups)] * number)["speedup_95"] for number in (1, 4)
    )
    assert high_of_four - low_of_four == pytest.approx(high - low, rel=0.15)


def test_no_batch_is_of_two_pairs() -> None:
    """Three prompts in batches of two: cut from all records together, a batch would have prompts of two pairs."""
    row = speed_row(mtp(3), 0.0, 2, [pair_of([2.0, 2.0, 2.0]), pair_of([4.0, 4.0, 4.0])])
    assert row["speedup_95"] == (2.0, 4.0)
