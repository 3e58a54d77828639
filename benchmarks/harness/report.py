"""The files of every benchmark: results.json, table.md and, where there is matplotlib, plot.png."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vllm_mtp.benchmarks.harness.method import method_of
from vllm_mtp.common.files import compact_json, write_atomically
from vllm_mtp.common.plots import write_plot

Result = Mapping[str, Any]
"""What results.json holds."""
RESULTS, TABLE, PLOT = "results.json", "table.md", "plot.png"
METHOD_COLUMNS = ("temperature", "method", "k")


def write_report(
    result: Result, output: Path, table: Callable[[Result], str], plot: Callable[[Result, Any], Any] | None = None
) -> str:
    """Writes the three files.

    Args:
        result: all figures.
        output: folder.
        table: Markdown from figures.
        plot: makes a figure of matplotlib with pyplot, or None where there is nothing to show; None: no plot yet.

    Returns:
        The table, and a line that says so where there is no plot for want of matplotlib.
    """
    write_atomically(output / RESULTS, compact_json(result))
    text = table(result)
    write_atomically(output / TABLE, text + "\n")
    if plot is not None and not write_plot(output / PLOT, lambda pyplot: plot(result, pyplot)):
        text += "\n\nNo plot, for want of matplotlib."
    return text


def markdown(names: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    rows = [names, ["---"] * len(names), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def made_on(*origins: Mapping[str, Any]) -> str:
    """Hardware and versions. Rows may have been made on several machines, one after another."""
    hardware = dict.fromkeys(origin["hardware"] for origin in origins)
    versions = dict.fromkeys(f"{name} {number}" for origin in origins for name, number in origin["versions"].items())
    return f"{' and '.join(hardware)}, {', '.join(versions)}"


def options_text(settings: Mapping[str, Any]) -> str:
    """What the user said of the engines, for a heading; empty where nothing was said."""
    return "".join(f", {name} {value}" for name, value in settings.get("engine_options", {}).items())


def method_cells(row: Mapping[str, Any]) -> list[str]:
    """The first columns of a table with a row for each method."""
    return [f"{row['temperature']:g}", method_of(row).label, str(row["num_speculative_tokens"])]


def interval_cell(row: Mapping[str, Any], name: str, unit: str = "") -> str:
    """A figure with its 95% interval, which the row has as `NAME_95`."""
    low, high = row[f"{name}_95"]
    return f"{row[name]:.2f}{unit} ({low:.2f}-{high:.2f})"


def number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def numbers(values: Iterable[float | None]) -> str:
    return " ".join(map(number, values))
