"""The files that every benchmark writes."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from vllm_mtp.benchmarks.harness.report import markdown, write_report


def table(result: Any) -> str:
    return markdown(["a"], [[str(result["a"])]])


def plot(result: Any, pyplot: Any) -> Any:
    figure, axes = pyplot.subplots()
    axes.plot([result["a"]])
    return figure


def test_three_files_of_one_name_each(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert write_report({"a": 1}, tmp_path, table, plot) == "| a |\n| --- |\n| 1 |"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plot.png", "results.json", "table.md"]
    assert json.loads((tmp_path / "results.json").read_text("utf-8")) == {"a": 1}
    assert (tmp_path / "table.md").read_text("utf-8") == "| a |\n| --- |\n| 1 |\n"


def test_without_matplotlib_a_line_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a plot's absence that ends a benchmark of hours, or that nobody is told of."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert write_report({"a": 1}, tmp_path, table, plot).endswith("\n\nNo plot, for want of matplotlib.")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results.json", "table.md"]


def test_nothing_to_show(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    write_report({"a": 1}, tmp_path, table, lambda result, pyplot: None)
    assert not (tmp_path / "plot.png").exists()
