"""Which of several launches is the fastest: the search of `vllm-mtp bench tune-kernels`, whatever a launch is."""

from collections.abc import Callable, Iterable
from typing import Any

from vllm_mtp.benchmarks.kernels.timing import why

WORTH_A_CHANGE = 0.98
"""A candidate takes the shipped one's place where it needs at most this share of its time: less is noise."""


def search(shipped: str, candidates: Iterable[str], time_us: Callable[[str], float]) -> dict[str, Any]:
    """Times the shipped candidate and every other one.

    Args:
        shipped: name of what is in use.
        candidates: names of others; the shipped one may be among them, and is timed once.
        time_us: times one, in microseconds; what it raises is why that candidate does not run.

    Returns:
        "best": None where nothing ran. "ratio": its time over the shipped one's, 1 where that stays; None where the
        shipped one did not run. "times_us": [name, time] of all that ran, the fastest first. "failures": [name, why]
        of the others.
    """
    times_us: dict[str, float] = {}
    failures: dict[str, str] = {}
    for name in dict.fromkeys((shipped, *candidates)):
        try:
            times_us[name] = time_us(name)
        except Exception as error:  # a compiler fails with whatever it likes, and the others are timed
            failures[name] = why(error)
    ranked = sorted(times_us, key=lambda name: times_us[name])
    best, ratio = ranked[0] if ranked else None, None
    if best is not None and shipped in times_us:
        stays = times_us[best] > WORTH_A_CHANGE * times_us[shipped]
        best, ratio = (shipped, 1.0) if stays else (best, times_us[best] / times_us[shipped])
    return {
        "best": best,
        "ratio": ratio,
        "times_us": [[name, times_us[name]] for name in ranked],
        "failures": [[name, reason] for name, reason in failures.items()],
    }
