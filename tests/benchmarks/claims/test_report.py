"""Catches: a claim that passes although its interval holds zero."""

import pytest

from vllm_mtp.benchmarks.claims.report import verdict
from vllm_mtp.benchmarks.harness.statistics import Estimate


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.1, 0.3, "reproduced"), (-0.1, 0.3, "not separated"), (-0.3, -0.1, "opposite")],
)
def test_verdict(low: float, high: float, expected: str) -> None:
    assert verdict(Estimate(mean=(low + high) / 2, low=low, high=high, of_runs=())) == expected
