"""Speed with drafts beside speed without, from every kind of results, and whether that pays. Pure functions."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from vllm_mtp.benchmarks.harness.method import method_of
from vllm_mtp.benchmarks.report.source import Row, Source, name_of

Interval = tuple[float, float]
PAYS, LOSES, OPEN = "pays", "loses", "open"
_MARGIN = 0.05
"""What one run without an interval may be off."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Gain:
    """One way of drafting at one load, beside no speculation."""

    method: str
    is_drafter: bool
    """Not a baseline."""
    temperature: float
    load: int
    """Requests at once."""
    plain_tokens_per_s: float
    """Without speculation, of all requests together."""
    speedup: float
    speedup_95: Interval | None

    @property
    def verdict(self) -> str:
        """PAYS or LOSES where the interval says so."""
        low, high = self.speedup_95 or (self.speedup - _MARGIN, self.speedup + _MARGIN)
        return PAYS if low > 1 else LOSES if high < 1 else OPEN

    @property
    def times(self) -> str:
        """The speedup, with its interval where it has one."""
        if self.speedup_95 is None:
            return f"{self.speedup:.2f}x"
        return f"{self.speedup:.2f}x ({self.speedup_95[0]:.2f} to {self.speedup_95[1]:.2f})"


def gains_of(source: Source) -> list[Gain]:
    """Those that a source tells of, by load."""
    makers = {"acceptance": _of_acceptance, "serving": _of_serving, "tune": _of_tune}
    found = makers[source.kind](source) if source.kind in makers else []
    return sorted(found, key=lambda gain: gain.load)


def best_by_load(gains: Iterable[Gain], *, drafter: bool = True) -> list[Gain]:
    """The fastest at each load: of the drafter's, or of what needs no trained drafter."""
    best: dict[int, Gain] = {}
    for gain in gains:
        if gain.is_drafter == drafter and (gain.load not in best or gain.speedup > best[gain.load].speedup):
            best[gain.load] = gain
    return [best[load] for load in sorted(best)]


def break_even(speedups: Sequence[tuple[int, float]]) -> float:
    """The load from which on no measured load pays, where the speedup is one on a line over the logarithm of the load.

    Args:
        speedups: loads, rising, with the speedup at each.

    Returns:
        0 where no load pays, infinity where the largest does.
    """
    paying = [place for place, (_, speedup) in enumerate(speedups) if speedup > 1]
    if not paying:
        return 0.0
    if paying[-1] == len(speedups) - 1:
        return float("inf")
    (load, speedup), (next_load, next_speedup) = speedups[paying[-1] : paying[-1] + 2]
    share = (speedup - 1) / (speedup - next_speedup)
    return float(load * (next_load / load) ** share)


def _of_acceptance(source: Source) -> list[Gain]:
    return [
        Gain(
            **_method(row),
            temperature=row["temperature"],
            load=row["batch_size"],
            plain_tokens_per_s=row["baseline_output_tokens_per_second"],
            speedup=row["speedup"],
            speedup_95=_interval(row, "speedup_95"),
        )
        for row in source.result["speed_rows"]
    ]


def _of_serving(source: Source) -> list[Gain]:
    rows = source.result["rows"]
    plain = {row["concurrency"]: row["output_tokens_per_s"] for row in rows if row["method"] == "none"}
    return [
        Gain(
            **_method(row),
            temperature=source.settings["temperature"],
            load=row["concurrency"],
            plain_tokens_per_s=plain[row["concurrency"]],
            speedup=row.get("output_tokens_per_s_ratio", row["output_tokens_per_s"] / plain[row["concurrency"]]),
            speedup_95=_interval(row, "output_tokens_per_s_ratio_95"),
        )
        for row in rows
        if row["method"] != "none" and row["concurrency"] in plain
    ]


def _of_tune(source: Source) -> list[Gain]:
    return [
        Gain(
            method=f"tuned k = {row['num_speculative_tokens']}",
            is_drafter=True,
            temperature=source.settings.get("temperature", 0.0),
            load=row["batch_size"],
            plain_tokens_per_s=row["tokens_per_second_without"],
            speedup=row["measured_speedup"],
            speedup_95=_interval(row, "measured_speedup_95") if row["num_turns"] > 1 else None,
        )
        for row in source.result["verification"]
    ]


def _method(row: Row) -> dict[str, Any]:
    return {"method": name_of(row), "is_drafter": not method_of(row).is_baseline}


def _interval(row: Row, name: str) -> Interval | None:
    return (row[name][0], row[name][1]) if name in row else None
