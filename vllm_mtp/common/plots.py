"""Plots by matplotlib, where it is installed."""

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vllm_mtp.common.files import write_atomically

_INK = "#010203"
"""Drawn in it, and then in the colour of the text around: light on dark where the page is."""


def write_plot(path: Path, draw: Callable[[Any], Any]) -> bool:
    """Draws a figure and writes it as PNG, the same bytes for the same figure.

    Args:
        path: of the file.
        draw: makes a figure with matplotlib's pyplot, or None where there is nothing to show.

    Returns:
        Whether there is matplotlib to draw with.

    Raises:
        OSError: for a full disk or a read-only folder.
    """
    try:
        import matplotlib as mpl
    except ImportError:
        return False
    mpl.use("Agg")
    from matplotlib import pyplot

    figure = draw(pyplot)
    if figure is None:
        return True
    content = io.BytesIO()
    figure.savefig(content, dpi=120, bbox_inches="tight")
    pyplot.close(figure)
    write_atomically(path, content.getvalue())
    return True


def svg(name: str, draw: Callable[[Any], Any]) -> str | None:
    """Draws a figure as an `<svg>` to stand in a page: it has the page's font and colour, and refers to nothing else.

    Args:
        name: of the figure, unlike those of others in the page.
        draw: makes a figure with matplotlib's pyplot.

    Returns:
        The markup, the same for the same figure; None where there is no matplotlib to draw with.
    """
    try:
        import matplotlib as mpl
    except ImportError:
        return None
    mpl.use("Agg")
    from matplotlib import pyplot

    inks = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    style = dict.fromkeys(inks, _INK) | {"svg.fonttype": "none", "svg.hashsalt": name, "font.size": 10.0}
    style |= {"figure.constrained_layout.use": True, "text.parse_math": False}
    content = io.StringIO()
    with mpl.rc_context(style):
        figure = draw(pyplot)
        figure.savefig(content, format="svg", transparent=True)
        pyplot.close(figure)
    return _as_part_of_a_page(content.getvalue(), name)


def _as_part_of_a_page(document: str, name: str) -> str:
    """The `<svg>` alone, without a fixed size, with ids of its own."""
    found = document[document.index("<svg") :]
    found = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", found, flags=re.DOTALL)
    found = re.sub(r"<svg [^>]*?(viewBox=\"[^\"]*\")[^>]*>", r"<svg \1>", found)
    found = re.sub(r"font-family: [^;]*;", "font-family: inherit;", found)
    found = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", found)
    return found.replace(_INK, "currentColor").strip()
