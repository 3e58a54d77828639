"""What `tune` chose, as a section: the configuration, what was predicted and what was measured of it."""

from collections.abc import Mapping, Sequence
from typing import Any

from vllm_mtp.benchmarks.harness.method import method_of
from vllm_mtp.benchmarks.harness.report import interval_cell, made_on
from vllm_mtp.benchmarks.report.charts import Line, lines
from vllm_mtp.benchmarks.report.page import Figure, Section, Table
from vllm_mtp.benchmarks.report.source import Row, Source
from vllm_mtp.benchmarks.tune.table import verified_cells


def section(source: Source, name: str) -> Section:
    """The section; `name` is its plot's prefix."""
    result, settings = source.result, source.settings
    choice = result["choice"]
    return Section(
        title=f"Tuned: {source.pair}",
        about=f"Temperature {settings.get('temperature', 0):g}, {settings['dtype']}. {made_on(*source.origins)}.",
        notes=[chosen(choice)],
        code=[command for command in (choice["lookup_command"], choice["serve_command"]) if command],
        figures=[_predictions(result["predictions"], result["verification"], choice, name)],
        tables=[_verification(result["verification"])] if result["verification"] else [],
    )


def chosen(choice: Mapping[str, Any]) -> str:
    """What to serve with, in a sentence."""
    size = choice["for_batch_size"]
    row = next(row for row in choice["by_batch_size"] if row["batch_size"] == size)
    what = f"{method_of(choice['method'])}: {interval_cell(row, 'speedup', 'x')} predicted at {size} at once"
    return (
        f"Serve with {what}." if choice["pays"] else f"Do not speculate here. What comes closest to paying is {what}."
    )


def _predictions(predicted: Sequence[Row], verified: Sequence[Row], choice: Mapping[str, Any], name: str) -> Figure:
    lookup = method_of(choice["method"]).lookup
    of_k: dict[int, list[Row]] = {}
    for row in predicted:
        if method_of(row).lookup == lookup:
            of_k.setdefault(row["num_speculative_tokens"], []).append(row)
    found = [
        Line(label=f"k = {k}, predicted", points=_points(some, "speedup")) for k, some in sorted(of_k.items()) if k
    ]
    if verified:
        bounds = [tuple(row["measured_speedup_95"]) for row in verified]
        found.append(Line(label="chosen, measured", points=_points(verified, "measured_speedup"), bounds=bounds))
    return Figure(
        title="Speed over the requests at once, for each k (bars: 95%)",
        svg=lines(name, found, x="requests at once", y="times as fast", loads=True, level=1),
        table=Table(
            columns=["requests at once", "method", "predicted (95%)", "tokens a round", "cost of a round"],
            rows=[
                [
                    str(row["batch_size"]),
                    str(method_of(row)),
                    interval_cell(row, "speedup", "x"),
                    f"{row['tokens_per_round']:.2f}",
                    f"{row['cost']:.2f}",
                ]
                for some in of_k.values()
                for row in some
            ],
        ),
    )


def _points(rows: Sequence[Row], name: str) -> list[tuple[float, float]]:
    return sorted((row["batch_size"], row[name]) for row in rows)


def _verification(rows: Sequence[Row]) -> Table:
    return Table(
        columns=["requests at once", "k", "predicted (95%)", "measured (95%)", "error", "tokens/s", "without"],
        rows=[
            [*verified_cells(row), f"{row['tokens_per_second']:.1f}", f"{row['tokens_per_second_without']:.1f}"]
            for row in rows
        ],
    )
