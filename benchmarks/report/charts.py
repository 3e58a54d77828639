"""The plots of a page, by matplotlib."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vllm_mtp.benchmarks.harness.plot import stacked_bars
from vllm_mtp.common.plots import svg

_SIZE = (4.4, 3.3)
"""Inches: at the width of a phone its text is as large as the page's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """Points of one label, with bounds where they have some."""

    label: str
    points: Sequence[tuple[float, float]]
    bounds: Sequence[tuple[float, float] | None] = ()
    is_band: bool = False
    """Bounds are an area, not bars."""
    colour: int | None = None
    """Its number; None: the next one."""


def lines(
    name: str, some: Sequence[Line], *, x: str, y: str, loads: bool = False, level: float | None = None
) -> str | None:
    """Lines over numbers.

    Args:
        name: of the plot within its page.
        some: at least one.
        x, y: what the axes are.
        loads: x is a number of requests at once: powers of two are apart alike.
        level: a line across, such as that of no speculation.
    """

    def draw(pyplot: Any) -> Any:
        figure, axes = pyplot.subplots(figsize=_SIZE)
        for one in some:
            _draw_line(axes, one)
        places = sorted({place for one in some for place, _ in one.points})
        if loads:
            axes.set_xscale("log", base=2)
        axes.set_xticks(places, [f"{place:g}" for place in places])
        axes.minorticks_off()
        if level is not None:
            axes.axhline(level, color="grey", linestyle="--", linewidth=1)
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        axes.margins(y=0.1)
        axes.set_ylim(bottom=0)
        _finish(figure, axes)
        return figure

    return svg(name, draw)


def shares(name: str, bars: Mapping[str, Mapping[str, float]]) -> str | None:
    """A bar of 100% for each name, of its parts one after another."""

    def draw(pyplot: Any) -> Any:
        figure, axes = pyplot.subplots(figsize=(_SIZE[0], 2.3 + 0.4 * len(bars)))
        stacked_bars(axes, bars)
        axes.set_xlabel("% of a round")
        _finish(figure, axes)
        return figure

    return svg(name, draw)


def _draw_line(axes: Any, one: Line) -> None:
    places, heights = [place for place, _ in one.points], [height for _, height in one.points]
    colour = None if one.colour is None else f"C{one.colour}"
    [drawn] = axes.plot(places, heights, "o-", markersize=4, label=one.label, color=colour)
    known = [(*point, *bound) for point, bound in zip(one.points, one.bounds, strict=False) if bound is not None]
    if not known:
        return
    at, middle, low, high = zip(*known, strict=True)
    if one.is_band:
        axes.fill_between(at, low, high, color=drawn.get_color(), alpha=0.15, linewidth=0)
        return
    below = [max(0.0, height - end) for height, end in zip(middle, low, strict=True)]
    above = [max(0.0, end - height) for height, end in zip(middle, high, strict=True)]
    axes.errorbar(at, middle, yerr=(below, above), fmt="none", ecolor=drawn.get_color(), capsize=3)


def _finish(figure: Any, axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes.get_legend_handles_labels(), ncols=2, loc="outside lower center", frameon=False)
