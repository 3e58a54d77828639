"""The plot of `vllm-mtp bench kernels`: every row under the roofline that was measured in the same run."""

from collections.abc import Mapping, Sequence
from typing import Any

from vllm_mtp.benchmarks.harness.report import Result

_MARKERS = "osD^vXph<>"


def plot(result: Result, pyplot: Any) -> Any:
    """The roofline.

    Each row stands at the operations per byte of its case's floor, and at those operations over its time: how far it is
    below the roof, bytes per second of a copy and operations per second of a product, is its share of the floor.
    """
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

    def legend(title: str, place: float, items: Sequence[tuple[str, str, str]]) -> Any:
        handles = [axes.plot([], [], marker, color=color, label=label)[0] for marker, color, label in items]
        where = "upper left" if place else "lower left"
        return axes.legend(handles=handles, title=title, loc=where, bbox_to_anchor=(1.02, place), fontsize=8)

    axes.add_artist(legend("kernel", 1.0, [(markers[kernel], "0.4", kernel) for kernel in kernels]))
    legend("by", 0.0, [("o", colors[provider], provider) for provider in providers])
    return figure


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
