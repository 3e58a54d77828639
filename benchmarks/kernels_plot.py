"""The plot of `vllm-mtp bench kernels`: each kernel against the roofline that was measured in the same run."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)


def plot(result: Mapping[str, Any], path: Path) -> None:
    """Share of the floor by provider, a group of bars for each case, as PNG; a warning where matplotlib is missing."""
    try:
        import matplotlib as mpl
    except ImportError:
        logger.warning("No plot: matplotlib is not installed")
        return
    mpl.use("Agg")
    from matplotlib import pyplot

    rows = [row for row in result["rows"] if "time_us" in row]
    labels = list(dict.fromkeys(_label(row) for row in rows))
    providers = list(dict.fromkeys(row["provider"] for row in rows))
    figure, axes = pyplot.subplots(figsize=(max(6, 1.6 * len(labels)), 5))
    width = 0.8 / max(1, len(providers))
    for number, provider in enumerate(providers):
        own = [row for row in rows if row["provider"] == provider]
        bars = axes.bar(
            [labels.index(_label(row)) + width * (number - (len(providers) - 1) / 2) for row in own],
            [100 * row["share_of_floor"] for row in own],
            width,
            label=provider,
        )
        axes.bar_label(bars, [f"{row['time_us']:,.0f} us" for row in own], fontsize=6, rotation=90, padding=2)
    axes.axhline(100, color="black", linewidth=0.8)
    axes.set_xticks(range(len(labels)), labels, fontsize=7)
    axes.set_ylabel("% of the floor: copy or product of the same run")
    axes.set_title(f"{result['hardware']}, vllm-mtp in {result['implementation']}, {result['size']}")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _label(row: Mapping[str, Any]) -> str:
    lines = [*row["kernel"].split(", "), *(f"{name} {number}" for name, number in row["shape"].items())]
    return "\n".join(lines)
