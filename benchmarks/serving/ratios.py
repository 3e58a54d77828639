"""What the repeats of a row come to together, and its ratios to no speculation. Pure functions.

A ratio is the geometric mean over repeats of method / no speculation, of the same requests in the same repeat. Its 95%
interval is over repeats, each with servers of its own (Student's t), and over requests (resampled), as
`harness/statistics.py` has it; with one repeat over requests alone.
"""

# Shapes: R repeats, P requests.

from collections.abc import Callable, Mapping, Sequence
from statistics import mean
from typing import Any

import numpy as np

from vllm_mtp.benchmarks.harness.method import NONE, Method
from vllm_mtp.benchmarks.harness.statistics import Ratio, quotient

Run = Mapping[str, Any]
"""What `run_load` gives of one repeat."""


def joined(method: Method, concurrency: int, runs: Sequence[Run], plain: Sequence[Run]) -> dict[str, Any]:
    """A row of results.json: each figure the mean over repeats, ratios with their intervals.

    Args:
        method: how it was served.
        concurrency: requests under way at once.
        runs: its repeats.
        plain: those without speculation, of the same requests.
    """
    row = method.about() | {"concurrency": concurrency} | _means(runs)
    return row if method == NONE else row | _ratios(runs, plain)


def _means(runs: Sequence[Run]) -> dict[str, Any]:
    names = [name for name in runs[0] if name not in ("requests", "made_with")]
    return {name: None if runs[0][name] is None else mean(run[name] for run in runs) for name in names}


def _ratios(runs: Sequence[Run], plain: Sequence[Run]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, ratio_of in _OF.items():
        one = quotient(ratio_of(runs), ratio_of(plain))
        found |= {f"{name}_ratio": round(one.mean, 4), f"{name}_ratio_95": (round(one.low, 4), round(one.high, 4))}
    return found


def tokens_per_s(runs: Sequence[Run]) -> Ratio:
    """Output tokens / seconds of the run, of which each request has a share by its own seconds."""
    seconds_RP = np.array([_of(run, "ttft_s") + _of(run, "decode_s") for run in runs])
    durations_R1 = np.array([[run["duration"]] for run in runs])
    shares_RP = durations_R1 * seconds_RP / seconds_RP.sum(1, keepdims=True)
    return Ratio(above_RP=[_of(run, "output_tokens") for run in runs], below_RP=shares_RP)


def ttft(runs: Sequence[Run]) -> Ratio:
    """The mean over requests of the time to the first token."""
    seconds_RP = np.array([_of(run, "ttft_s") for run in runs])
    return Ratio(above_RP=seconds_RP, below_RP=np.ones_like(seconds_RP))


def tpot(runs: Sequence[Run]) -> Ratio:
    """The mean over requests of the time per output token after the first."""
    seconds_RP = np.array([_of(run, "decode_s") / (_of(run, "output_tokens") - 1) for run in runs])
    return Ratio(above_RP=seconds_RP, below_RP=np.ones_like(seconds_RP))


def _of(run: Run, name: str) -> Any:
    return np.asarray(run["requests"][name], dtype=np.float64)


_OF: dict[str, Callable[[Sequence[Run]], Ratio]] = {"output_tokens_per_s": tokens_per_s, "ttft": ttft, "tpot": tpot}
