"""Intervals of ratios of sums by resampling, for what is measured prompt by prompt or row by row."""

# Shapes: N resamples, G groups, P prompts.

from collections.abc import Sequence

import numpy as np


def ratio_interval(
    numerators: Sequence[float],
    denominators: Sequence[float],
    *,
    num_groups: int = 1,
    num_resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """95% bootstrap interval of sum(numerators) / sum(denominators), prompts resampled with replacement.

    A resample whose denominators are all zero counts as 0.

    Args:
        numerators, denominators: of every prompt, [G P].
        num_groups: G, in which the same prompts were measured, group after group. Groups are resampled too; a
            resample's prompts are the same in all its groups, as they were when they were measured: drawn for each
            group apart they would count as so many more prompts, and the interval would be too narrow.
        num_resamples: N.
        seed: of the resamples.
    """
    random = np.random.default_rng(seed)
    above_GP, below_GP = (np.asarray(v, dtype=np.float64).reshape(num_groups, -1) for v in (numerators, denominators))
    num_prompts = above_GP.shape[1]
    prompts_NP = random.integers(num_prompts, size=(num_resamples, num_prompts))
    groups_NG = random.integers(num_groups, size=(num_resamples, num_groups))
    picks = groups_NG[:, :, None], prompts_NP[:, None, :]
    above_N, below_N = (values_GP[picks].sum((1, 2)) for values_GP in (above_GP, below_GP))
    ratios_N = np.divide(above_N, below_N, out=np.zeros(num_resamples), where=below_N != 0)
    low, high = np.quantile(ratios_N, (0.025, 0.975), method="nearest")
    return float(low), float(high)
