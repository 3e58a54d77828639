"""What `bench acceptance` found, as a section: acceptance per position, speed over k."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from vllm_mtp.benchmarks.harness.method import method_of
from vllm_mtp.benchmarks.harness.report import METHOD_COLUMNS, interval_cell, made_on, method_cells, numbers
from vllm_mtp.benchmarks.report.charts import Line, lines
from vllm_mtp.benchmarks.report.page import Figure, Section, Table
from vllm_mtp.benchmarks.report.source import Row, Source, name_of, not_measured


def section(source: Source, name: str) -> Section:
    """The section; `name` is its plots' prefix."""
    result = source.result
    drafted = [row for row in result["rows"] if row["method"] != "none"]
    temperatures = sorted({row["temperature"] for row in drafted})
    figures = [
        _positions([row for row in drafted if row["temperature"] == temperature], temperature, f"{name}-{place}")
        for place, temperature in enumerate(temperatures)
    ]
    speeds = result["speed_rows"]
    figures += [
        _speeds([row for row in speeds if row["temperature"] == temperature], temperature, f"{name}-speed-{place}")
        for place, temperature in enumerate(sorted({row["temperature"] for row in speeds}))
    ]
    return Section(
        title=f"Acceptance: {source.pair}",
        about=_about(result),
        notes=[
            *_notes(drafted, result["settings"]["acceptance"]["dtype"]),
            *not_measured(source),
        ],
        figures=figures,
        tables=[_lengths(drafted)],
    )


def largest_k(rows: Sequence[Row]) -> list[Row]:
    """The row with the largest K of each method, of rows that are sorted by it."""
    return list({method_of(row).label: row for row in rows}.values())


def _about(result: Mapping[str, Any]) -> str:
    prompts, settings = result["prompts"], result["settings"]["acceptance"]
    return (
        f"{prompts['num_prompts']} prompts of {prompts['file']}, {'with' if prompts['chat_template'] else 'without'} "
        f"chat template, at most {settings['max_tokens']} new tokens, {settings['dtype']}, "
        f"{'eager' if settings['enforce_eager'] else 'torch.compile'}. {made_on(*result['made_with'])}."
    )


def _notes(rows: Sequence[Row], dtype: str) -> list[str]:
    found = [
        "Intervals are 95%, over prompts resampled. A round without a draft counts to the tokens per pass, not to the "
        "acceptance length."
    ]
    if compared := [row for row in rows if row["num_identical"] is not None]:
        same, whole = sum(row["num_identical"] for row in compared), sum(row["num_prompts"] for row in compared)
        identical = f"{same:,} of {whole:,} outputs at temperature 0 equal those without speculation"
        why = f": in {dtype} outputs can differ with the number of rows in a batch, with or without speculation"
        found.append(f"{identical}{'' if dtype == 'float32' else why}.")
    return found


def _positions(rows: Sequence[Row], temperature: float, name: str) -> Figure:
    shown = largest_k(rows)
    found = [
        Line(
            label=name_of(row),
            points=[(place + 1, rate) for place, rate in enumerate(row["acceptance_rate_per_position"])],
        )
        for row in shown
    ]
    return Figure(
        title=f"Share of drafts accepted up to each position, temperature {temperature:g}",
        svg=lines(name, found, x="position of the draft token", y="accepted"),
        table=Table(
            columns=[*METHOD_COLUMNS, "rate per position", "given the position before"],
            rows=[
                [
                    *method_cells(row),
                    numbers(row["acceptance_rate_per_position"]),
                    numbers(row["conditional_acceptance_rate_per_position"]),
                ]
                for row in shown
            ],
        ),
    )


def _lengths(rows: Sequence[Row]) -> Table:
    return Table(
        columns=[*METHOD_COLUMNS, "acceptance length (95%)", "tokens per pass"],
        rows=[
            [*method_cells(row), interval_cell(row, "acceptance_length"), f"{row['tokens_per_forward']:.2f}"]
            for row in rows
        ],
    )


def _speeds(rows: Sequence[Row], temperature: float, name: str) -> Figure:
    of_line: dict[str, list[Row]] = {}
    for row in rows:
        method = replace(method_of(row), local_argmax=False)
        of_line.setdefault(f"{method.label}, batch {row['batch_size']}", []).append(row)
    found = [
        Line(
            label=label,
            points=[(row["num_speculative_tokens"], row["speedup"]) for row in some],
            bounds=[tuple(row["speedup_95"]) for row in some],
        )
        for label, some in of_line.items()
    ]
    return Figure(
        title=f"Speed over k, beside no speculation, temperature {temperature:g} (bars: 95%)",
        svg=lines(name, found, x="k, draft tokens in a round", y="times as fast", level=1),
        table=Table(
            columns=[*METHOD_COLUMNS, "batch", "tokens/s", "without", "speedup (95%)"],
            rows=[
                [
                    *method_cells(row),
                    str(row["batch_size"]),
                    f"{row['output_tokens_per_second']:.1f}",
                    f"{row['baseline_output_tokens_per_second']:.1f}",
                    interval_cell(row, "speedup", "x"),
                ]
                for row in rows
            ],
        ),
    )
