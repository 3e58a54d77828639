"""From measured passes to the demos' rows, table and files."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from vllm_mtp.benchmarks.demo.measure import Plan, Run
from vllm_mtp.benchmarks.demo.plot import plot
from vllm_mtp.benchmarks.harness.figures import figures
from vllm_mtp.benchmarks.harness.method import method_of
from vllm_mtp.benchmarks.harness.report import (
    METHOD_COLUMNS,
    Result,
    made_on,
    markdown,
    method_cells,
    numbers,
    options_text,
    write_report,
)
from vllm_mtp.benchmarks.harness.speed import speeds, speeds_by_task
from vllm_mtp.common.provenance import provenance

Row = Mapping[str, Any]


def report(plan: Plan, rows: Sequence[Row], *, output: Path, command: str, start: float, about: Row) -> None:
    """Writes and prints what a demo measured since start; about has what else results.json says, such as the target."""
    result = {
        **about,
        "rows": rows,
        "max_tokens": plan.max_tokens,
        "batch_size": 1,
        "dtype": plan.engine.dtype,
        "compiled": not plan.engine.enforce_eager,
        **plan.engine.options.settings(),
        **provenance(command),
        "seconds_in_all": round(time.perf_counter() - start),
    }
    print(f"\n{write_report(result, output, table, plot)}\n\nWritten to {output}")


def rows_of(runs: Sequence[Run], max_tokens: int, *, by_task: bool = False) -> list[dict[str, Any]]:
    """One row per method and temperature. The first run is without speculation; ratios to it are pass by pass.

    Args:
        runs: of the same prompts.
        max_tokens: generated per prompt.
        by_task: rows have figures by task and intervals over prompts too, of the first pass.
    """
    plain = runs[0]
    rows: list[dict[str, Any]] = []
    for temperature in plain.passes:
        for run in runs:
            if temperature in run.passes:
                rows.append(_row(run, plain, temperature, max_tokens))
                if by_task:
                    rows[-1] |= _task_figures(run, plain, temperature, max_tokens)
            elif run.missing and temperature == 0:
                rows.append(run.method.about() | {"temperature": temperature, "missing": run.missing})
    return rows


def _row(run: Run, plain: Run, temperature: float, max_tokens: int) -> dict[str, Any]:
    passes = run.passes[temperature]
    of_passes = [speeds([pair]) for pair in zip(passes, plain.passes[temperature], strict=True)]
    of_all = figures([record for records in passes for record in records], max_tokens=max_tokens)
    of_last = figures(passes[-1], max_tokens=max_tokens)
    num_identical = None  # at other temperatures, and where an engine did not start in float32
    if temperature == 0 and run.exact:
        num_identical = figures(run.exact, max_tokens=max_tokens, without_speculation=plain.exact).num_identical
    return {
        **run.method.about(),
        "temperature": temperature,
        "acceptance_length": of_all.acceptance_length,
        "acceptance_rate_per_position": of_all.acceptance_rate_per_position,
        "acceptance_length_without_loops": of_all.acceptance_length_without_loops,
        "output_tokens_per_second": round(median(one.output_tokens_per_second for one in of_passes), 1),
        "output_tokens_per_second_of_passes": [round(one.output_tokens_per_second, 1) for one in of_passes],
        "speedup": round(median(one.speedup for one in of_passes), 3),
        "speedup_of_passes": [one.speedup for one in of_passes],
        "num_identical": num_identical,
        "num_prompts": of_last.num_prompts,
        "num_loops": of_last.num_loops,
    }


def _task_figures(run: Run, plain: Run, temperature: float, max_tokens: int) -> dict[str, Any]:
    """`speedup_95`, and by task what the row has for all prompts."""
    records, pair = run.passes[temperature][0], (run.passes[temperature][0], plain.passes[temperature][0])
    tasks = {}
    for task, found in speeds_by_task([pair]).items():
        of_task = figures([record for record in records if record.task == task], max_tokens=max_tokens)
        tasks[task] = asdict(found) | {
            "acceptance_length": of_task.acceptance_length,
            "tokens_per_forward": of_task.tokens_per_forward,
        }
    return {
        "speedup_95": speeds([pair]).speedup_95,
        "tokens_per_forward": figures(records, max_tokens=max_tokens).tokens_per_forward,
        "tasks": tasks,
    }


def table(result: Result) -> str:
    """A demo's tables in Markdown, with what they must not hide: looping outputs, differing outputs, slowdowns."""
    rows = [row for row in result["rows"] if "missing" not in row]
    lines = [
        f"{rows[0]['num_prompts']} held-out prompts, {result['max_tokens']} new tokens each, batch 1, "
        f"{'torch.compile' if result['compiled'] else 'eager'} and {result['dtype']} on both sides"
        f"{options_text(result)}, {made_on(result)}",
        "",
        _main_table(result["rows"]),
    ]
    if "tasks" in rows[0]:
        lines += ["\nBy task: tokens/s, speedup, acceptance length\n", _task_table(rows)]
    if any(method_of(row).is_baseline for row in rows):
        lines.append(
            "\nTokens per forward: rounds in which nothing was drafted included; the acceptance length leaves them out."
        )
    if result["dtype"] != "float32":
        lines.append(
            f"\nIdentical: greedy token ids in float32. In {result['dtype']} some kernels give another result for one "
            "row than for several, with or without speculation."
        )
    lines += _remarks([row for row in rows if row["method"] != "none"])
    lines += [f"Not measured: {_name(row)}: {row['missing']}." for row in result["rows"] if "missing" in row]
    return "\n".join(lines)


def _remarks(drafted: Sequence[Row]) -> Iterator[str]:
    """What is best, and what is worse than it should be."""
    for temperature in dict.fromkeys(row["temperature"] for row in drafted):
        rows = [row for row in drafted if row["temperature"] == temperature]
        best = max((row for row in rows if row["method"] == "mtp"), key=lambda row: row["speedup"])
        yield f"\nBest at temperature {temperature:g}: {_name(best)}, {best['speedup']:.2f}x."
        for row in rows:
            if row["method"] != "mtp" and row["speedup"] > best["speedup"]:
                yield f"Faster than that without a drafter: {_name(row)}, {row['speedup']:.2f}x."
    for row in drafted:
        if row["speedup"] < 1:
            where = f"{_name(row)} at temperature {row['temperature']:g}"
            yield f"Slower than no speculation: {where} ({row['speedup']:.2f}x)."
    for row in drafted:
        if row["num_identical"] not in (None, row["num_prompts"]):
            yield f"NOT identical: {_name(row)}, {row['num_identical']} of {row['num_prompts']} outputs."


def _main_table(rows: Sequence[Row]) -> str:
    by_task = any("tasks" in row for row in rows)
    names = [*METHOD_COLUMNS, "tokens/s", f"speedup ({'95%' if by_task else 'passes'})", "acceptance length"]
    names += [*(["tokens per forward"] if by_task else []), "without loops", "loops", "acceptance rate per position"]
    lines = []
    for row in rows:
        if "missing" in row:
            lines.append([*method_cells(row), "not measured", *[""] * (len(names) - 3)])
            continue
        without, spread = row["acceptance_length_without_loops"], row.get("speedup_95", row["speedup_of_passes"])
        lines.append(
            [
                *method_cells(row),
                f"{row['output_tokens_per_second']:.0f}",
                f"{row['speedup']:.2f}x ({min(spread):.2f}-{max(spread):.2f})",
                f"{row['acceptance_length']:.2f}",
                *([f"{row['tokens_per_forward']:.2f}"] if by_task else []),
                "" if without is None or row["method"] == "none" else f"{without:.2f}",
                str(row["num_loops"]),
                numbers(row["acceptance_rate_per_position"]),
                "" if row["num_identical"] is None else f"{row['num_identical']} of {row['num_prompts']}",
            ]
        )
    return markdown([*names, "identical"], lines)


def _task_table(rows: Sequence[Row]) -> str:
    def cell(row: Row, found: Row) -> str:
        speed = f"{found['output_tokens_per_second']:.0f}"
        return (
            speed if row["method"] == "none" else f"{speed}, {found['speedup']:.2f}x, {found['acceptance_length']:.2f}"
        )

    lines = [[*method_cells(row), *(cell(row, found) for found in row["tasks"].values())] for row in rows]
    return markdown([*METHOD_COLUMNS, *rows[0]["tasks"]], lines)


def _name(row: Row) -> str:
    """How text names a row: the drafter by its K and what else tells it apart."""
    method = method_of(row)
    name = f"k = {method.num_speculative_tokens}"
    return f"{method.name} {name}" if method.is_baseline else ", ".join([name, *method.details])
