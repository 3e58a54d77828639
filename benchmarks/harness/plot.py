"""What several plots have: bars of several methods side by side in groups, and bars of parts of a whole."""

from collections.abc import Mapping, Sequence
from typing import Any

NOTHING = float("nan")
"""The height of a bar that is not there."""
Bar = tuple[float, float, float]
"""Height, and lower and upper bound."""


def grouped_bars(axes: Any, groups: Sequence[str], bars: Mapping[str, Sequence[Bar]]) -> None:
    """A group of bars for each name, a bar in it for each label, with bounds where they differ from the height."""
    width = 0.8 / len(bars)
    for number, (label, of_label) in enumerate(bars.items()):
        places = [place + width * (number - (len(bars) - 1) / 2) for place in range(len(groups))]
        errors = (
            [max(0.0, height - low) for height, low, _ in of_label],
            [max(0.0, high - h) for h, _, high in of_label],
        )
        drawn = any(map(any, errors))
        axes.bar(places, [bar[0] for bar in of_label], width, yerr=errors if drawn else None, capsize=2, label=label)
    axes.set_xticks(range(len(groups)), groups, rotation=20, fontsize=8)


def stacked_bars(axes: Any, bars: Mapping[str, Mapping[str, float]]) -> None:
    """A bar for each name, from top to bottom, of its parts one after another: shares of a whole, shown in %."""
    names, before = list(bars), [0.0] * len(bars)
    for part in next(iter(bars.values())):
        widths = [100 * bars[name][part] for name in names]
        axes.barh(names, widths, left=before, label=part)
        before = [start + width for start, width in zip(before, widths, strict=True)]
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
