"""From measured passes to the demos' rows, table and files."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from vllm_mtp.benchmarks.acceptance.table import markdown
from vllm_mtp.benchmarks.demo.plot import plot
from vllm_mtp.benchmarks.harness.acceptance import Acceptance, total
from vllm_mtp.benchmarks.harness.figures import counts_of, tokens_per_forward
from vllm_mtp.benchmarks.harness.method import Method, method_of
from vllm_mtp.benchmarks.harness.passes import Pass, Run
from vllm_mtp.benchmarks.harness.speed import speeds, speeds_by_task
from vllm_mtp.training.data.repetition import ends_in_loop, loop_window

Row = Mapping[str, Any]


def rows_of(runs: Sequence[Run], max_tokens: int, tasks: Sequence[str] = ()) -> list[dict[str, Any]]:
    """One row per method and temperature. The first run is the baseline, without speculation; ratios are pass by pass.

    Args:
        runs: of the same prompts.
        max_tokens: generated per prompt.
        tasks: of each prompt; if given, rows have figures by task and intervals over prompts too, of the first pass.
    """
    baseline = runs[0]
    rows: list[dict[str, Any]] = []
    for temperature in baseline.passes:
        for run in runs:
            if temperature in run.passes:
                row = _row(run, baseline, temperature, max_tokens)
                rows.append(row | _task_figures(run, baseline, temperature, tasks) if tasks else row)
            elif run.missing and temperature == 0:
                rows.append(run.method.about() | {"temperature": temperature, "missing": run.missing})
    return rows


def _row(run: Run, baseline: Run, temperature: float, max_tokens: int) -> dict[str, Any]:
    ratios = [a / b for a, b in zip(run.speeds(temperature), baseline.speeds(temperature), strict=True)]
    last = run.passes[temperature][-1]
    identical = None  # at other temperatures, and where an engine did not start in float32
    if temperature == 0 and run.exact_outputs:
        identical = sum(a == b for a, b in zip(run.exact_outputs, baseline.exact_outputs, strict=True))
    window = loop_window(max_tokens)
    return {
        **run.method.about(),
        "temperature": temperature,
        **_acceptance_of(run.passes[temperature], run.method, window),
        "output_tokens_per_second": round(median(run.speeds(temperature)), 1),
        "output_tokens_per_second_of_passes": [round(speed, 1) for speed in run.speeds(temperature)],
        "speedup": round(median(ratios), 3),
        "speedup_of_passes": [round(ratio, 3) for ratio in ratios],
        "num_identical": identical,
        "num_prompts": len(last),
        "num_loops": sum(ends_in_loop(result["token_ids"], window=window) for result in last),
    }


def _acceptance_of(passes: Sequence[Pass], method: Method, window: int) -> dict[str, Any]:
    if method.name == "none":
        return {"acceptance_length": 1.0, "acceptance_rate_per_position": [], "acceptance_length_without_loops": None}
    results = [result for one in passes for result in one]
    straight = [result for result in results if not ends_in_loop(result["token_ids"], window=window)]
    joined = _joined(results, method)
    return {
        "acceptance_length": round(joined.acceptance_length, 3),
        "acceptance_rate_per_position": [round(rate, 3) for rate in joined.acceptance_rate_per_position],
        "acceptance_length_without_loops": (
            round(_joined(straight, method).acceptance_length, 3) if straight else None
        ),
    }


def _joined(results: Sequence[Mapping[str, Any]], method: Method) -> Acceptance:
    return total([counts_of(result, method) for result in results])


def _task_figures(run: Run, baseline: Run, temperature: float, tasks: Sequence[str]) -> dict[str, Any]:
    """`speedup_95`, and by task what the row has for all prompts."""
    records, reference = (
        [result | {"task": task} for result, task in zip(one.passes[temperature][0], tasks, strict=True)]
        for one in (run, baseline)
    )
    by_task = {}
    for task, figures in speeds_by_task([(records, reference)]).items():
        of_task = [record for record in records if record["task"] == task]
        by_task[task] = figures | {
            "acceptance_length": round(_joined(of_task, run.method).acceptance_length, 3),
            "tokens_per_forward": round(tokens_per_forward(of_task, run.method), 3),
        }
    return {
        "speedup_95": speeds([(records, reference)])["speedup_95"],
        "tokens_per_forward": round(tokens_per_forward(records, run.method), 3),
        "tasks": by_task,
    }


def table(result: Row) -> str:
    """A demo's tables in Markdown, with what they must not hide: looping outputs, differing outputs, slowdowns."""
    rows = [row for row in result["rows"] if "missing" not in row]
    missing = [row for row in result["rows"] if "missing" in row]
    lines = [
        f"{rows[0]['num_prompts']} held-out prompts, {result['max_tokens']} new tokens each, batch 1, "
        f"{'torch.compile' if result['compiled'] else 'eager'} and {result['dtype']} on both sides, "
        f"{result['hardware']}, "
        f"{', '.join(f'{name} {number}' for name, number in result['versions'].items())}",
        "",
        _main_table(result["rows"]),
    ]
    if "tasks" in rows[0]:
        lines += ["\nBy task: tokens/s, speedup, acceptance length\n", _task_table(rows)]
    if any(row["method"] not in ("none", "mtp") for row in rows):
        lines.append(
            "\nTokens per forward: rounds in which nothing was drafted included; the acceptance length leaves them out."
        )
    if result["dtype"] != "float32":
        lines.append(
            f"\nIdentical: greedy token ids in float32. In {result['dtype']} some kernels give another result for one "
            "row than for several, with or without speculation."
        )
    drafted = [row for row in rows if row["method"] != "none"]
    for temperature in dict.fromkeys(row["temperature"] for row in drafted):
        of_temperature = [row for row in drafted if row["temperature"] == temperature]
        best = max((row for row in of_temperature if row["method"] == "mtp"), key=lambda row: row["speedup"])
        lines.append(f"\nBest at temperature {temperature:g}: {_name(best)}, {best['speedup']:.2f}x.")
        lines += [
            f"Faster than that without a drafter: {_name(row)}, {row['speedup']:.2f}x."
            for row in of_temperature
            if row["method"] != "mtp" and row["speedup"] > best["speedup"]
        ]
    lines += [
        f"Slower than no speculation: {_name(row)} at temperature {row['temperature']:g} ({row['speedup']:.2f}x)."
        for row in drafted
        if row["speedup"] < 1
    ]
    lines += [
        f"NOT identical: {_name(row)}, {row['num_identical']} of {row['num_prompts']} outputs."
        for row in drafted
        if row["num_identical"] not in (None, row["num_prompts"])
    ]
    lines += [f"Not measured: {_name(row)}: {row['missing']}." for row in missing]
    return "\n".join(lines)


def _main_table(rows: Sequence[Row]) -> str:
    by_task = any("tasks" in row for row in rows)
    names = ["temperature", "method", "k", "tokens/s", f"speedup ({'95%' if by_task else 'passes'})"]
    names += ["acceptance length", *(["tokens per forward"] if by_task else []), "without loops", "loops"]
    names += ["acceptance rate per position", "identical"]
    lines = []
    for row in rows:
        about = [f"{row['temperature']:g}", method_of(row).label, str(row["num_speculative_tokens"])]
        if "missing" in row:
            lines.append([*about, "not measured", *[""] * (len(names) - 4)])
            continue
        without, spread = row["acceptance_length_without_loops"], row.get("speedup_95", row["speedup_of_passes"])
        lines.append(
            [
                *about,
                f"{row['output_tokens_per_second']:.0f}",
                f"{row['speedup']:.2f}x ({min(spread):.2f}-{max(spread):.2f})",
                f"{row['acceptance_length']:.2f}",
                *([f"{row['tokens_per_forward']:.2f}"] if by_task else []),
                "" if without is None else f"{without:.2f}",
                str(row["num_loops"]),
                " ".join(f"{rate:.2f}" for rate in row["acceptance_rate_per_position"]),
                "" if row["num_identical"] is None else f"{row['num_identical']} of {row['num_prompts']}",
            ]
        )
    return markdown(names, lines)


def _task_table(rows: Sequence[Row]) -> str:
    tasks = list(rows[0]["tasks"])
    lines = []
    for row in rows:
        cells = []
        for task in tasks:
            figures = row["tasks"][task]
            speed = f"{figures['output_tokens_per_second']:.0f}"
            drafts = row["method"] != "none"
            cells.append(f"{speed}, {figures['speedup']:.2f}x, {figures['acceptance_length']:.2f}" if drafts else speed)
        lines.append([f"{row['temperature']:g}", method_of(row).label, str(row["num_speculative_tokens"]), *cells])
    return markdown(["temperature", "method", "k", *tasks], lines)


def _name(row: Row) -> str:
    """How text names a row: the drafter by its K and what else tells it apart."""
    name = f"k = {row['num_speculative_tokens']}"
    if row["method"] not in ("none", "mtp"):
        return f"{row['method']} {name}"
    return ", ".join([name, *method_of(row).details])


def write_report(result: dict[str, Any], output: Path, plot_name: str) -> None:
    """Writes results.json, table.md and the plot, where there is matplotlib, and prints the table."""
    (output / "results.json").write_text(json.dumps(result, indent=1) + "\n")
    text = table(result)
    (output / "table.md").write_text(text + "\n")
    print(f"\n{text}")
    try:
        plot(result, output / plot_name)
        print(f"\nWritten: {output}/results.json, table.md, {plot_name}")
    except ImportError:
        print(f"\nWritten: {output}/results.json, table.md; no plot, for want of matplotlib")
