"""The plot of `vllm-mtp bench acceptance`."""

from collections.abc import Mapping
from typing import Any

from vllm_mtp.benchmarks.harness.method import method_of
from vllm_mtp.benchmarks.harness.plot import NOTHING, Bar, grouped_bars
from vllm_mtp.benchmarks.harness.report import Result


def plot(result: Result, pyplot: Any) -> Any:
    """Acceptance length by task with 95% intervals, and the conditional acceptance rate per position.

    Shown are the largest K of the drafter, with each of its settings, and every baseline, at the lowest temperature
    that was measured; None if nothing drafted.
    """
    drafted = [row for row in result["rows"] if row["method"] != "none"]
    if not drafted:
        return None
    temperature = min(row["temperature"] for row in drafted)
    # One row for each method: of the drafter's, sorted by K, the last one with the same settings stays.
    rows = {method_of(row).label: row for row in drafted if row["temperature"] == temperature}
    tasks = list(dict.fromkeys(task for row in rows.values() for task in row["tasks"]))
    figure, (length_axes, rate_axes) = pyplot.subplots(1, 2, figsize=(12, 4.5))
    bars: dict[str, list[Bar]] = {}
    for row in rows.values():
        label = str(method_of(row))
        bars[label] = [_bar(row), *(_bar(row["tasks"].get(task)) for task in tasks)]
        rates = row["conditional_acceptance_rate_per_position"]
        rate_axes.plot([NOTHING if rate is None else rate for rate in rates], marker="o", label=label)
    grouped_bars(length_axes, ["all", *tasks], bars)
    length_axes.set_ylim(bottom=1)
    length_axes.set_title(f"Acceptance length at temperature {temperature:g} (bars: 95%)")
    rate_axes.set_xlabel("position of the draft token")
    rate_axes.set_ylim(0, 1)
    rate_axes.set_title("Acceptance rate given that the position before was accepted")
    for axes in (length_axes, rate_axes):
        axes.legend()
    figure.suptitle(f"{result['draft']} for {result['target']}")
    figure.tight_layout()
    return figure


def _bar(row: Mapping[str, Any] | None) -> Bar:
    return (row["acceptance_length"], *row["acceptance_length_95"]) if row else (NOTHING, NOTHING, NOTHING)
