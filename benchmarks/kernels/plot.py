"""The plot of `vllm-mtp bench kernels`: every row under the roofline that was measured in the same run."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

_MARKERS = "osD^vXph<>"


def plot(result: Mapping[str, Any], path: Path) -> None:
    """The roofline as PNG; a warning where matplotlib is missing.

    Each row stands at the operations per byte of its case's floor, and at those operations over its time: how far it is
    below the roof, bytes per second of a copy and operations per second of a product, is its share of the floor.
    """
    try:
        import matplotlib as mpl
    except ImportError:
        logger.warning("No plot: matplotlib is not installed")
        return
    mpl.use("Agg")
    from matplotlib import pyplot
    from matplotlib.lines import Line2D

    rows = [row for row in result["rows"] if "time_us" in row]
    kernels = list(dict.fromkeys(row["kernel"] for row in rows))
    providers = list(dict.fromkeys(row["provider"] for row in rows))
    markers = dict(zip(kernels, _MARKERS * (1 + len(kernels) // len(_MARKERS)), strict=False))
    colors = {provider: f"C{number}" if number < 10 else f"{number / 20}" for number, provider in enumerate(providers)}

    figure, axes = pyplot.subplots(figsize=(11, 6.5))
    for row in rows:
        axes.plot(
            *point(row),
            markers[row["kernel"]],
            color=colors[row["provider"]],
            markersize=9,
            markeredgecolor="white",
            markeredgewidth=0.5,
            alpha=0.9,
        )
    ceilings = result["ceilings"]
    bytes_per_second, flops_per_second = ceilings["bytes_per_second"], ceilings["flops_per_second"]
    axes.plot(*roof([point(row)[0] for row in rows], bytes_per_second, flops_per_second), color="black")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.grid(which="both", color="0.93")
    axes.set_axisbelow(True)
    axes.set_xlabel("arithmetic intensity of the floor, operations per byte")
    axes.set_ylabel("operations of the floor per second")
    axes.set_title(
        f"{result['hardware']}, vllm-mtp in {result['implementation']}, {result['size']}\n"
        f"roof: copy {bytes_per_second / 1e9:,.0f} GB/s, product {flops_per_second / 1e12:,.2f} TFLOP/s, of this run",
        fontsize=10,
    )

    def handle(marker: str, color: str, label: str) -> Any:
        return Line2D([], [], linestyle="", marker=marker, color=color, markersize=8, label=label)

    of_kernels = axes.legend(
        handles=[handle(markers[kernel], "0.4", kernel) for kernel in kernels],
        title="kernel",
        loc="upper left",
        bbox_to_anchor=(1.02, 1.0),
        fontsize=8,
        alignment="left",
    )
    axes.add_artist(of_kernels)
    axes.legend(
        handles=[handle("o", colors[provider], provider) for provider in providers],
        title="by",
        loc="lower left",
        bbox_to_anchor=(1.02, 0.0),
        fontsize=8,
        alignment="left",
    )
    figure.savefig(path, dpi=120, bbox_inches="tight", bbox_extra_artists=[of_kernels])
    pyplot.close(figure)


def point(row: Mapping[str, Any]) -> tuple[float, float]:
    """Operations per byte, and operations per second."""
    return row["floor_flops"] / row["floor_bytes"], row["floor_flops"] / (1e-6 * row["time_us"])


def roof(
    intensities: Sequence[float], bytes_per_second: float, flops_per_second: float
) -> tuple[list[float], list[float]]:
    """Corners of the roof, from below the lowest intensity to above the highest, its ridge among them."""
    ridge = flops_per_second / bytes_per_second
    at = [min([*intensities, ridge]) / 2, ridge, 2 * max([*intensities, ridge])]
    return at, [min(x * bytes_per_second, flops_per_second) for x in at]
