"""From rounds and records to a row of `vllm-mtp bench round`. Pure functions."""

from collections.abc import Sequence
from typing import Any

from vllm_mtp.benchmarks.harness.record import Record
from vllm_mtp.benchmarks.rounds.trace import PARTS, Round
from vllm_mtp.common.bootstrap import ratio_interval

Pass = tuple[Sequence[Record], Sequence[Record]]
"""Records of the same prompts without the profiler, and with it."""


def row_of(passes: Sequence[Pass], rounds: Sequence[Round]) -> dict[str, Any]:
    """Shares of all rounds together, with 95% intervals over rounds, and what the profiler cost.

    Args:
        passes: all of them.
        rounds: of the profiled engine.

    Raises:
        ValueError: if no round was profiled.
    """
    if not rounds:
        raise ValueError("expected rounds in the profile, found none: give a larger max_tokens")
    whole = [sum(one.values()) for one in rounds]
    shares, intervals = {}, {}
    for part in PARTS:
        of_part = [one[part] for one in rounds]
        low, high = ratio_interval(of_part, whole)
        shares[part], intervals[part] = round(sum(of_part) / sum(whole), 4), (round(low, 4), round(high, 4))
    plain = [record.seconds for one, _ in passes for record in one]
    profiled = [record.seconds for _, two in passes for record in two]
    low, high = ratio_interval(profiled, plain, num_groups=len(passes))
    return {
        "num_rounds": len(rounds),
        "shares": shares,
        "shares_95": intervals,
        "time_with_profiler": round(sum(profiled) / sum(plain), 3),
        "time_with_profiler_95": (round(low, 3), round(high, 3)),
    }
