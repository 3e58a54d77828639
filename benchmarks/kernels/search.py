"""Which of several launches is the fastest: the search of `vllm-mtp bench tune-kernels`, whatever a launch is."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from vllm_mtp.benchmarks.kernels.timing import why

Candidate = TypeVar("Candidate")

WORTH_A_CHANGE = 0.98
"""A candidate takes the shipped one's place where it needs at most this share of its time: less is noise."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Found(Generic[Candidate]):
    """What a search found."""

    best: Candidate | None
    """None where nothing ran."""
    ratio: float | None
    """Its time over the shipped one's, 1 where that stays; None where the shipped one did not run."""
    times_us: list[tuple[Candidate, float]]
    """Times of all that ran, the fastest first."""
    failures: list[tuple[Candidate, str]]
    """Why the others did not run."""


def search(
    shipped: Candidate, candidates: Sequence[Candidate], time_us: Callable[[Candidate], float]
) -> Found[Candidate]:
    """Times the shipped candidate and every other one.

    Args:
        shipped: what is in use.
        candidates: others; the shipped one may be among them, and is timed once.
        time_us: times one, in microseconds; what it raises is why that candidate does not run.
    """
    timed: list[tuple[Candidate, float]] = []
    failures: list[tuple[Candidate, str]] = []
    for candidate in [shipped, *(other for other in candidates if other != shipped)]:
        try:
            timed.append((candidate, time_us(candidate)))
        except Exception as error:  # a compiler fails with whatever it likes, and the others are timed
            failures.append((candidate, why(error)))
    timed.sort(key=lambda pair: pair[1])
    best, best_us = timed[0] if timed else (None, math.inf)
    shipped_us = next((microseconds for candidate, microseconds in timed if candidate == shipped), None)
    ratio = None
    if shipped_us is not None:
        stays = best_us > WORTH_A_CHANGE * shipped_us
        best, ratio = (shipped, 1.0) if stays else (best, best_us / shipped_us)
    return Found(best=best, ratio=ratio, times_us=timed, failures=failures)
