"""Catches: a ratio with another concurrency's baseline, a column without its figure."""

from typing import Any

from vllm_mtp.benchmarks.harness.method import NONE, Method, mtp
from vllm_mtp.benchmarks.serving.table import plot, table


def row(method: Method, concurrency: int, tokens_per_s: float, **more: Any) -> dict[str, Any]:
    latencies = {f"{name}_p{percent}_ms": percent / 10 for name in ("ttft", "tpot") for percent in (50, 90, 99)}
    rates = {"output_tokens_per_s": tokens_per_s, "goodput_requests_per_s": None}
    return method.about() | {"concurrency": concurrency} | latencies | rates | more


RESULT = {
    "target": "small",
    "settings": {"dtype": "float32", "max_tokens": 8, "temperature": 0.0, "bounds": ["tpot:9"]},
    "origins": [{"hardware": "a machine", "versions": {"vllm": "1"}}],
    "missing": {"suffix k = 8": "needs a package"},
    "rows": [
        row(NONE, 1, 100.0),
        row(mtp(3), 1, 150.0, acceptance_length=1.8, goodput_requests_per_s=2.5),
        row(NONE, 8, 400.0),
        row(mtp(3), 8, 300.0, acceptance_length=1.8),
    ],
}


def test_a_line_for_each_row() -> None:
    lines = table(RESULT).splitlines()
    cells = [line.strip("| ").split(" | ") for line in lines if line.startswith(("| 1", "| 8"))]
    assert cells[1] == ["1", "mtp", "3", "5.0 / 9.0 / 9.9", "5.0 / 9.0 / 9.9", "150.0", "1.50", "2.50", "1.80"]
    assert [line[6] for line in cells] == ["1.00", "1.50", "1.00", "0.75"]
    assert "goodput within tpot:9" in lines[0]
    assert lines[-1] == "suffix k = 8: not measured, needs a package"


def test_plot_has_a_line_for_each_method() -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure = plot(RESULT, pyplot)
    assert [line.get_label() for line in figure.axes[0].lines] == ["none", "mtp k = 3"]
    pyplot.close(figure)
