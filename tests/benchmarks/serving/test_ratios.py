"""Catches: a ratio of other requests or of another repeat, an interval that misses what varies between servers."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from scipy import stats

from vllm_mtp.benchmarks.harness.method import NONE, mtp
from vllm_mtp.benchmarks.serving.ratios import joined, tokens_per_s, tpot, ttft

TOKENS = 11


def run(first_P: Any, decode_P: Any, *, duration: float = 4.0, **figures: Any) -> dict[str, Any]:
    """What a load gives of requests with these seconds to the first token and after it."""
    requests = {"ttft_s": list(first_P), "decode_s": list(decode_P), "output_tokens": [TOKENS] * len(first_P)}
    return {"duration": duration, "made_with": {}, "requests": requests, **figures}


def test_each_is_what_vllm_calls_so() -> None:
    runs = [run([0.1, 0.3], [1.0, 3.0], duration=2.2)]
    assert tokens_per_s(runs).values() == pytest.approx([2 * TOKENS / 2.2])
    assert ttft(runs).values() == pytest.approx([0.2])
    assert tpot(runs).values() == pytest.approx([0.2])


def test_a_row_has_means_and_ratios() -> None:
    runs = [run([0.1], [1.0], tpot_p50_ms=100.0, goodput=None), run([0.1], [1.0], tpot_p50_ms=200.0, goodput=None)]
    plain = [run([0.2], [2.0], duration=6.0), run([0.2], [2.0], duration=10.0)]
    row = joined(mtp(3), 8, runs, plain)
    assert (row["concurrency"], row["method"], row["tpot_p50_ms"], row["goodput"]) == (8, "mtp", 150, None)
    assert row["output_tokens_per_s_ratio"] == pytest.approx(np.sqrt(1.5 * 2.5), abs=1e-4)
    assert (row["ttft_ratio"], row["tpot_ratio"]) == (0.5, 0.5)
    assert row["ttft_ratio_95"] == (0.5, 0.5)
    assert row["output_tokens_per_s_ratio_95"][0] < 1.5 < 2.5 < row["output_tokens_per_s_ratio_95"][1]
    assert not {"requests", "made_with"} & row.keys()


def test_no_speculation_has_no_ratio_to_itself() -> None:
    runs = [run([0.1], [1.0])]
    assert not [name for name in joined(NONE, 1, runs, runs) if "_ratio" in name]


def test_only_what_differs_from_no_speculation_is_in_an_interval() -> None:
    """A machine that slows down, and requests that differ, do so for both; servers and gains that differ do not."""
    decode_P = np.array([1.0, 2.0, 8.0, 3.0])
    plain = [run([0.1] * 4, drift * decode_P) for drift in (1, 2, 4)]

    def interval(servers: Sequence[float], gains_P: Any) -> tuple[float, float]:
        pairs = zip((1, 2, 4), servers, strict=True)
        runs = [run([0.1] * 4, 0.5 * drift * server * gains_P * decode_P) for drift, server in pairs]
        low, high = joined(mtp(3), 1, runs, plain)["tpot_ratio_95"]
        return low, high

    assert interval([1, 1, 1], np.ones(4)) == (0.5, 0.5)
    logs_R = np.log([0.45, 0.5, 0.55])
    expected = np.exp(stats.t.interval(0.95, 2, logs_R.mean(), stats.sem(logs_R)))
    assert interval([0.9, 1, 1.1], np.ones(4)) == pytest.approx(tuple(expected), abs=1e-3)
    low, high = interval([1, 1, 1], np.array([0.5, 1, 1.5, 1]))
    assert low < 0.5 < 0.55 < high
