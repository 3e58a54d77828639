"""Means, differences and 95% intervals over seeds and prompts. Pure functions.

Two things vary and neither stands for the other: the seed of a training run, and which prompts are measured. The
half-width of every interval is the root of the sum of the squares of

    t(S - 1) * deviation over seeds / sqrt(S)          S seeds; differences are paired by seed
    1.96 * deviation over 1,000 bootstrap resamples    the same prompts resampled in both arms and in all seeds

which counts what seeds and prompts vary together twice, and so is rather too wide than too narrow. With one seed the
first is missing: the interval then speaks of prompts alone.
"""

# Shapes: S seeds, P prompts, N resamples.

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np

_NUM_RESAMPLES = 1000
# 97.5% quantile of Student's t by degrees of freedom, from 1.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)
_NORMAL = 1.96


@dataclass(frozen=True, kw_only=True, slots=True)
class Ratio:
    """A ratio of sums over prompts, on each seed: acceptance length is 1 + accepted / drafts."""

    above_SP: Any
    """Numerator of each prompt: accepted tokens, or generated tokens."""
    below_SP: Any
    """Denominator of each prompt: drafts, or seconds."""
    offset: float = 0.0

    def values(self, prompts: Any = slice(None)) -> Any:
        """offset + sum(above) / sum(below) over the prompts of these indices, [S]."""
        above_SP, below_SP = (np.asarray(a, dtype=np.float64)[:, prompts] for a in (self.above_SP, self.below_SP))
        return self.offset + above_SP.sum(1) / below_SP.sum(1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A mean over seeds with its 95% interval."""

    mean: float
    low: float
    high: float
    of_seeds: tuple[float, ...]

    def as_dict(self) -> dict[str, Any]:
        interval = [round(self.low, 4), round(self.high, 4)]
        of_seeds = [round(value, 4) for value in self.of_seeds]
        return {"mean": round(self.mean, 4), "interval_95": interval, "of_seeds": of_seeds}


def estimate(ratio: Ratio) -> Estimate:
    """The mean over seeds of an arm."""
    return _estimate(ratio.values(), [ratio.values(prompts).mean() for prompts in _resamples(ratio)])


def difference(one: Ratio, two: Ratio, *, relative: bool = False) -> Estimate:
    """The mean over seeds of one - two, or of one / two - 1; both have the same seeds and prompts in the same order."""

    def between(prompts: Any = slice(None)) -> Any:
        a_S, b_S = one.values(prompts), two.values(prompts)
        return a_S / b_S - 1 if relative else a_S - b_S

    assert np.shape(one.above_SP) == np.shape(two.above_SP)
    return _estimate(between(), [between(prompts).mean() for prompts in _resamples(one)])


def verdict(found: Estimate) -> str:
    """Verdict on a claim that the difference is above zero."""
    return "reproduced" if found.low > 0 else "opposite" if found.high < 0 else "not separated"


def _resamples(ratio: Ratio) -> Any:
    num_prompts = np.shape(ratio.above_SP)[1]
    return np.random.default_rng(0).integers(num_prompts, size=(_NUM_RESAMPLES, num_prompts))


def _estimate(values_S: Any, resampled_N: Sequence[float]) -> Estimate:
    num_seeds, mean = len(values_S), float(values_S.mean())
    of_prompts = _NORMAL * float(np.std(resampled_N))
    of_seeds = 0.0
    if num_seeds > 1:
        t = _T[num_seeds - 2] if num_seeds - 2 < len(_T) else _NORMAL + 2.6 / (num_seeds - 1)
        of_seeds = t * float(values_S.std(ddof=1)) / sqrt(num_seeds)
    half = sqrt(of_seeds**2 + of_prompts**2)
    return Estimate(mean=mean, low=mean - half, high=mean + half, of_seeds=tuple(map(float, values_S)))
