"""Catches: a column without its figure, an interval that is not said to be of what it is."""

from typing import Any

import pytest

from vllm_mtp.benchmarks.harness.method import NONE, Method, mtp
from vllm_mtp.benchmarks.serving.table import plot, table


def row(method: Method, concurrency: int, tokens_per_s: float, **more: Any) -> dict[str, Any]:
    latencies = {f"{name}_p{percent}_ms": percent / 10 for name in ("ttft", "tpot") for percent in (50, 90, 99)}
    rates = {"output_tokens_per_s": tokens_per_s, "goodput_requests_per_s": None}
    return method.about() | {"concurrency": concurrency} | latencies | rates | more


def ratios(of_tokens_per_s: float) -> dict[str, Any]:
    found = {"output_tokens_per_s": of_tokens_per_s, "ttft": 1.1, "tpot": 0.5}
    bounds = {f"{name}_ratio_95": (value - 0.1, value + 0.2) for name, value in found.items()}
    return {f"{name}_ratio": value for name, value in found.items()} | bounds


RESULT = {
    "target": "small",
    "settings": {"dtype": "float32", "max_tokens": 8, "temperature": 0.0, "bounds": ["tpot:9"]},
    "repeats": 3,
    "origins": [{"hardware": "a machine", "versions": {"vllm": "1"}}],
    "missing": {"suffix k = 8": "needs a package"},
    "rows": [
        row(NONE, 1, 100.0),
        row(mtp(3), 1, 150.0, acceptance_length=1.8, goodput_requests_per_s=2.5, **ratios(1.5)),
        row(NONE, 8, 400.0),
        row(mtp(3), 8, 300.0, acceptance_length=1.8, **ratios(0.75)),
    ],
}


def test_a_line_for_each_row() -> None:
    lines = table(RESULT).splitlines()
    cells = [line.strip("| ").split(" | ") for line in lines if line.startswith(("| 1", "| 8"))]
    latencies = ["5.0 / 9.0 / 9.9"] * 2
    of_ratios = ["1.50 (1.40-1.70)", "1.10 (1.00-1.30)", "0.50 (0.40-0.70)"]
    assert cells[1] == ["1", "mtp", "3", *latencies, "150.0", *of_ratios, "2.50", "1.80"]
    assert [line[6] for line in cells] == ["1", "1.50 (1.40-1.70)", "1", "0.75 (0.65-0.95)"]
    assert "goodput within tpot:9" in lines[0]
    assert lines[-1] == "suffix k = 8: not measured, needs a package"


@pytest.mark.parametrize(("repeats", "of"), [(1, "over requests"), (3, "over 3 repeats with servers")])
def test_the_table_says_what_its_intervals_are_of(repeats: int, of: str) -> None:
    assert f"95% intervals {of}" in table(RESULT | {"repeats": repeats})


def test_plot_has_a_line_for_each_method() -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure = plot(RESULT, pyplot)
    assert [line.get_label() for line in figure.axes[0].lines] == ["none", "mtp k = 3"]
    [bars] = figure.axes[1].containers[1].lines[2]
    heights = [line[:, 1].tolist() for line in bars.get_segments()]
    assert heights == [pytest.approx([1.4, 1.7]), pytest.approx([0.65, 0.95])]
    pyplot.close(figure)
