"""The plot has a line for each K and the measured points."""

import pytest

from tests.benchmarks.tune.made_up import result
from vllm_mtp.benchmarks.tune.plot import plot


def test_lines_and_points() -> None:
    pyplot = pytest.importorskip("matplotlib.pyplot")
    figure = plot(result(), pyplot)
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels == ["k = 0", "k = 2", "chosen, measured"]
    pyplot.close(figure)
