"""What `bench round` found, as a section: where a round goes."""

from vllm_mtp.benchmarks.harness.report import interval_cell, made_on
from vllm_mtp.benchmarks.report.charts import shares
from vllm_mtp.benchmarks.report.page import Figure, Section, Table
from vllm_mtp.benchmarks.report.source import Source
from vllm_mtp.benchmarks.rounds.table import bar_name, bars_of, share_cell
from vllm_mtp.benchmarks.rounds.trace import PARTS


def section(source: Source, name: str) -> Section:
    """The section; `name` is its plot's prefix."""
    rows, settings = source.result["rows"], source.settings
    bars = bars_of(source.result)
    figure = Figure(
        title="Where a round goes",
        svg=shares(name, bars),
        table=Table(
            columns=["part", *bars],
            rows=[
                *([label, *(share_cell(row, part) for row in rows)] for part, label in PARTS.items()),
                ["rounds", *(str(row["num_rounds"]) for row in rows)],
                ["time with the profiler (95%)", *(interval_cell(row, "time_with_profiler", "x") for row in rows)],
            ],
        ),
    )
    costs = "; ".join(f"{interval_cell(row, 'time_with_profiler', 'x')} with {bar_name(row)}" for row in rows)
    return Section(
        title=f"Where a round goes: {source.pair}",
        about=(
            f"Temperature {settings['temperature']:g}, {settings['dtype']}, "
            f"{'eager' if settings['enforce_eager'] else 'torch.compile'}, by vLLM's profiler. "
            f"{made_on(*source.origins)}."
        ),
        notes=[
            "Trust the shares, not times: the profiler takes time itself. The same tokens took, beside an engine "
            f"without it, {costs} (95%)."
        ],
        figures=[figure],
    )
