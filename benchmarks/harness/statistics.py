"""Means, differences, quotients and 95% intervals over runs and prompts. Pure functions.

Two things vary and neither stands for the other: the run (a seed of training, or a repeat of a measurement), and which
prompts are measured. The half-width of every interval is the root of the sum of the squares of

    t(R - 1) * deviation over runs / sqrt(R)           R runs; both sides of a comparison are paired by run
    1.96 * deviation over 1,000 bootstrap resamples    the same prompts resampled on both sides and in all runs

which counts what runs and prompts vary together twice, and so is rather too wide than too narrow. With one run the
first is missing: the interval then speaks of prompts alone.
"""

# Shapes: R runs, P prompts, N resamples.

from collections.abc import Callable
from dataclasses import dataclass
from math import exp, sqrt
from typing import Any

import numpy as np

_NUM_RESAMPLES = 1000
# 97.5% quantile of Student's t by degrees of freedom, from 1.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)
_NORMAL = 1.96


@dataclass(frozen=True, kw_only=True, slots=True)
class Ratio:
    """A ratio of sums over prompts, in each run: acceptance length is 1 + accepted / drafts."""

    above_RP: Any
    """Numerator of each prompt: accepted tokens, or generated tokens."""
    below_RP: Any
    """Denominator of each prompt: drafts, or seconds."""
    offset: float = 0.0

    def values(self, prompts: Any = slice(None)) -> Any:
        """offset + sum(above) / sum(below) over the prompts of these indices, [R]."""
        above_RP, below_RP = (np.asarray(a, dtype=np.float64)[:, prompts] for a in (self.above_RP, self.below_RP))
        return self.offset + above_RP.sum(1) / below_RP.sum(1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A mean over runs with its 95% interval."""

    mean: float
    low: float
    high: float
    of_runs: tuple[float, ...]


def estimate(ratio: Ratio) -> Estimate:
    """The mean over runs."""
    return _estimate(ratio.values, np.shape(ratio.above_RP)[1])


def difference(one: Ratio, two: Ratio) -> Estimate:
    """The mean over runs of one - two; both have the same runs and prompts in the same order."""
    return _compared(one, two, lambda a_R, b_R: a_R - b_R)


def relative_difference(one: Ratio, two: Ratio) -> Estimate:
    """The mean over runs of one / two - 1, of the same runs and prompts."""
    return _compared(one, two, lambda a_R, b_R: a_R / b_R - 1)


def quotient(one: Ratio, two: Ratio) -> Estimate:
    """The geometric mean over runs of one / two, of the same runs and prompts; the interval is of its logarithm."""
    found = _compared(one, two, lambda a_R, b_R: np.log(a_R / b_R))
    of_runs = tuple(exp(value) for value in found.of_runs)
    return Estimate(mean=exp(found.mean), low=exp(found.low), high=exp(found.high), of_runs=of_runs)


def _compared(one: Ratio, two: Ratio, between: Callable[[Any, Any], Any]) -> Estimate:
    assert np.shape(one.above_RP) == np.shape(two.above_RP)
    return _estimate(lambda prompts: between(one.values(prompts), two.values(prompts)), np.shape(one.above_RP)[1])


def _estimate(values_of: Callable[[Any], Any], num_prompts: int) -> Estimate:
    """From what a choice of prompts gives in each run, [R]."""
    prompts_NP = np.random.default_rng(0).integers(num_prompts, size=(_NUM_RESAMPLES, num_prompts))
    values_R = values_of(slice(None))
    of_prompts = _NORMAL * float(np.std([values_of(prompts).mean() for prompts in prompts_NP]))
    half = sqrt(_half_of_runs(values_R) ** 2 + of_prompts**2)
    mean = float(values_R.mean())
    return Estimate(mean=mean, low=mean - half, high=mean + half, of_runs=tuple(map(float, values_R)))


def _half_of_runs(values_R: Any) -> float:
    num_runs = len(values_R)
    if num_runs == 1:
        return 0.0
    t = _T[num_runs - 2] if num_runs - 2 < len(_T) else _NORMAL + 2.6 / (num_runs - 1)
    return t * float(values_R.std(ddof=1)) / sqrt(num_runs)
