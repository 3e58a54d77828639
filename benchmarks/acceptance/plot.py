"""The plot of `vllm-mtp bench acceptance`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vllm_mtp.benchmarks.harness.method import method_of


def plot(result: Mapping[str, Any], path: Path) -> None:
    """Acceptance length by task with 95% intervals, and the conditional acceptance rate per position, as PNG.

    Shown are the largest K of the drafter, with each of its settings, and every rival, at the lowest temperature that
    was measured.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    drafted = [row for row in result["rows"] if row["method"] != "none"]
    if not drafted:
        return
    temperature = min(row["temperature"] for row in drafted)
    # One row for each method: of the drafter's, sorted by K, the last one with the same settings stays.
    rows = {method_of(row).label: row for row in drafted if row["temperature"] == temperature}
    tasks = list(dict.fromkeys(task for row in rows.values() for task in row["tasks"]))
    figure, (length_axes, rate_axes) = pyplot.subplots(1, 2, figsize=(12, 4.5))
    width = 0.8 / len(rows)
    for number, row in enumerate(rows.values()):
        label = str(method_of(row))
        groups = [row, *(row["tasks"].get(task) for task in tasks)]
        found = [(place, figures) for place, figures in enumerate(groups) if figures is not None]
        heights = [figures["acceptance_length"] for _, figures in found]
        bounds = [figures["acceptance_length_95"] for _, figures in found]
        length_axes.bar(
            [place + width * (number - (len(rows) - 1) / 2) for place, _ in found],
            heights,
            width,
            yerr=[
                [max(0.0, height - low) for height, (low, _) in zip(heights, bounds, strict=True)],
                [max(0.0, high - height) for height, (_, high) in zip(heights, bounds, strict=True)],
            ],
            capsize=2,
            label=label,
        )
        rates = row["conditional_acceptance_rate_per_position"]
        rate_axes.plot([float("nan") if rate is None else rate for rate in rates], marker="o", label=label)
    length_axes.set_xticks(range(len(tasks) + 1), ["all", *tasks], rotation=20)
    length_axes.set_ylim(bottom=1)
    length_axes.set_title(f"Acceptance length at temperature {temperature:g} (bars: 95%)")
    rate_axes.set_xlabel("position of the draft token")
    rate_axes.set_ylim(0, 1)
    rate_axes.set_title("Acceptance rate given that the position before was accepted")
    for axes in (length_axes, rate_axes):
        axes.legend()
    figure.suptitle(f"{result['draft']} for {result['target']}")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
