"""Catches: a part without its column, a bar that is not whole."""

from tests.benchmarks.report.results import rounds
from vllm_mtp.benchmarks.rounds.table import plot, table
from vllm_mtp.benchmarks.rounds.trace import PARTS


def test_a_column_for_each_part() -> None:
    names, _, cells = [
        line.strip("| ").split(" | ") for line in table(rounds()).splitlines() if line.startswith("|")
    ]  # fmt: skip
    assert names[4:-1] == list(PARTS.values())
    assert cells[:4] == ["1", "mtp", "3", "9"]
    assert cells[4:6] == ["50.0 (50.0-50.0)", "10.0 (10.0-10.0)"]
    assert cells[-2:] == ["5.0 (5.0-5.0)", "1.10x (1.00-1.20)"]


def test_a_bar_is_whole() -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    [axes] = plot(rounds(), pyplot).axes
    assert sum(bar.get_width() for bar in axes.patches) == 100
