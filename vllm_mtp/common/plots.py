"""Plots by matplotlib, where it is installed."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vllm_mtp.common.files import write_atomically


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
