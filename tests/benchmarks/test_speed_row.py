"""Speed against a baseline measured in turn."""

import pytest

from tests.benchmarks.records import record
from vllm_mtp.benchmarks.method import mtp
from vllm_mtp.benchmarks.speed_row import speed_row


def test_speed_and_interval_are_of_pairs() -> None:
    """Prompts of very different length with one ratio: the interval has no width, apart it would be wide."""
    ids = list(range(10))
    baseline = [record(n, "qa", "qa", 5, token_ids=ids, seconds=2.0**n) for n in range(6)]
    faster = [record(n, "qa", "qa", 5, token_ids=ids, seconds=2.0**n / 2) for n in range(6)]
    row = speed_row(mtp(3), 0.0, 1, faster, baseline)
    assert (row["speedup"], row["speedup_95"]) == (2.0, [2.0, 2.0])
    assert row["output_tokens_per_second"] == pytest.approx(60 / 31.5, abs=0.01)
    assert row["tasks"]["qa"]["speedup"] == 2.0


def test_a_batch_is_one_sample() -> None:
    """Three prompts of a batch finish together; resampled one by one they would look like three measurements."""
    ids = list(range(10))
    seconds = [1.0, 1.0, 3.0, 3.0]
    baseline = [record(n, "qa", "qa", 5, token_ids=ids, seconds=1.0) for n in range(4)]
    drafted = [record(n, "qa", "qa", 5, token_ids=ids, seconds=seconds[n]) for n in range(4)]
    row = speed_row(mtp(3), 0.0, 2, drafted, baseline)
    assert row["speedup_95"] == [pytest.approx(1 / 3, abs=1e-3), 1.0]
    assert "tasks" not in row
