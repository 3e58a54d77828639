"""The demos' plot."""

from collections.abc import Mapping
from typing import Any

from vllm_mtp.benchmarks.harness.method import method_of
from vllm_mtp.benchmarks.harness.plot import grouped_bars
from vllm_mtp.benchmarks.harness.report import Result


def plot(result: Result, pyplot: Any) -> Any:
    """Tokens per second by method, acceptance rate per position and, where rows have it, speedup by task."""
    rows = [row for row in result["rows"] if "missing" not in row]
    by_task = "tasks" in rows[0]
    shape: dict[str, Any] = {"figsize": (18, 5), "width_ratios": (3, 2, 3)} if by_task else {"figsize": (10, 4)}
    figure, panels = pyplot.subplots(1, 3 if by_task else 2, **shape)
    speed_axes, rate_axes = panels[:2]
    labels = list(dict.fromkeys(_label(row) for row in rows))
    for number, temperature in enumerate(dict.fromkeys(row["temperature"] for row in rows)):
        of_temperature = [row for row in rows if row["temperature"] == temperature]
        bars = speed_axes.bar(
            [labels.index(_label(row)) + 0.4 * number - 0.2 for row in of_temperature],
            [row["output_tokens_per_second"] for row in of_temperature],
            0.38,
            label=f"temperature {temperature:g}",
        )
        speed_axes.bar_label(bars, [f"{row['speedup']:.2f}x" for row in of_temperature], fontsize=8)
        longest = max(
            (row for row in of_temperature if row["method"] == "mtp"), key=lambda row: row["num_speculative_tokens"]
        )
        rate_axes.plot(
            longest["acceptance_rate_per_position"], marker="o", label=f"temperature {temperature:g}, {_label(longest)}"
        )
    speed_axes.set_xticks(range(len(labels)), labels, rotation=90 if by_task else 0)
    speed_axes.margins(y=0.2)  # room for the legend
    speed_axes.set_ylabel("output tokens per second, batch 1")
    speed_axes.set_title("Speed (label: speedup over no speculation)")
    rate_axes.set_xlabel("position of the draft token")
    rate_axes.set_ylabel("acceptance rate")
    rate_axes.set_ylim(0, 1)
    rate_axes.set_title("Acceptance rate per position at the largest k")
    if by_task:
        _plot_tasks(panels[2], rows)
    for axes in panels:
        axes.legend()
    figure.suptitle(f"MTP drafter for {result['target']}")
    figure.tight_layout()
    return figure


def _plot_tasks(axes: Any, rows: list[Mapping[str, Any]]) -> None:
    """Greedy speedup by task: the drafter at its best K, and every baseline."""
    greedy = [row for row in rows if row["temperature"] == 0]
    best = max((row for row in greedy if row["method"] == "mtp"), key=lambda row: row["speedup"])
    shown = [best, *(row for row in greedy if method_of(row).is_baseline)]
    tasks = list(best["tasks"])
    bars = {}
    for row in shown:
        label = ("MTP, " if row["method"] == "mtp" else "") + _label(row).replace("\n", ", ")
        bars[label] = [(row["tasks"][task]["speedup"],) * 3 for task in tasks]
    grouped_bars(axes, tasks, bars)
    axes.axhline(1, color="grey", linewidth=0.8)
    axes.margins(y=0.4)
    axes.set_title("Speedup by task at temperature 0")


def _label(row: Mapping[str, Any]) -> str:
    method = method_of(row)
    return method.name if method.is_baseline else "\n".join([f"k = {method.num_speculative_tokens}", *method.details])
