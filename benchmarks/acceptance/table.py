"""The Markdown of `vllm-mtp bench acceptance`, with what it must not hide. Pure functions of results.json."""

from collections.abc import Mapping, Sequence
from typing import Any

from vllm_mtp.benchmarks.acceptance.context import BEYOND, WITHIN, about_trained_length
from vllm_mtp.benchmarks.harness.method import lookup_label
from vllm_mtp.benchmarks.harness.report import (
    METHOD_COLUMNS,
    Result,
    interval_cell,
    made_on,
    markdown,
    method_cells,
    number,
    numbers,
    options_text,
)
from vllm_mtp.contract.lookup import Lookup

Row = Mapping[str, Any]


def table(result: Result) -> str:
    """All tables, each with a line that says what its numbers are."""
    rows, speed_rows = result["rows"], result["speed_rows"]
    drafted = [row for row in rows if row["method"] != "none"]
    parts = [_heading(result), _all(rows), *_remarks(result)]
    parts += [_by_task(drafted), *_by_turn(drafted), _rates(drafted), _by_context(drafted)] if drafted else []
    if title := about_trained_length(result):
        parts.append(f"{title}\n\n" + _lengths(drafted, "by_trained_length", (WITHIN, BEYOND)))
    parts += [_speeds(speed_rows)] if speed_rows else []
    return "\n\n".join(parts)


def _heading(result: Result) -> str:
    prompts, settings = result["prompts"], result["settings"]["acceptance"]
    turns = prompts.get("turns", {})
    several = f", up to {len(turns)} turns each" if len(turns) > 1 else ""
    left_out = f", {prompts['num_left_out']} too long and left out" if prompts["num_left_out"] else ""
    lookup = Lookup.of(result["draft_lookup"])
    sampling = "".join(f", {name} {settings[name]:g}" for name in ("top_p", "top_k") if name in settings)
    draft = f"{result['draft']} ({lookup_label(lookup)})" if lookup else result["draft"]
    return (
        f"{draft} for {result['target']}; {prompts['num_prompts']} prompts of {prompts['file']}{several} "
        f"(sha256 {prompts['sha256'][:12]}{left_out}), {'with' if prompts['chat_template'] else 'without'} chat "
        f"template, at most {settings['max_tokens']} new tokens, {settings['dtype']}, "
        f"{'eager' if settings['enforce_eager'] else 'torch.compile'}{sampling}{options_text(settings)}, "
        f"{made_on(*result['made_with'])}, seed {settings['seed']}"
    )


def _all(rows: Sequence[Row]) -> str:
    lines = [
        [
            *method_cells(row),
            _length(row) if row["method"] != "none" else "1",
            f"{row['tokens_per_forward']:.2f}",
            number(row["acceptance_length_without_loops"]) if row["num_loops"] else "",
            f"{row['num_loops']} of {row['num_prompts']}",
            "" if row["num_identical"] is None else f"{row['num_identical']} of {row['num_prompts']}",
            f"{row['peak_memory_mib']:,}" if row["peak_memory_mib"] else "",  # on several GPUs nobody counts it
        ]
        for row in rows
    ]
    names = [*METHOD_COLUMNS, "acceptance length (95%)", "tokens per forward", "without loops", "loops"]
    return markdown([*names, "identical output", "peak memory, MiB"], lines)


def _remarks(result: Result) -> list[str]:
    costs, settings = result["kv_bytes_per_token"], result["settings"]["acceptance"]
    remarks = [
        "Acceptance length: over all prompts together, interval over prompts resampled. Tokens per forward: rounds "
        "without a draft included. End-of-text ends an output. Without loops: outputs left out whose end repeats "
        f"itself. The drafter adds {costs['drafter']:,} bytes of KV cache per token to the target's "
        f"{costs['target']:,}; peak memory has the engine's whole KV cache in it."
    ]
    if num_discarded := sum(row.get("num_discarded_tokens", 0) for row in result["rows"]):
        remarks.append(
            f"{num_discarded:,} accepted draft tokens came after the end of an output: they are not in the acceptance "
            "lengths, as they are in vLLM's counters (vllm-project/vllm#56101), but in the rates."
        )
    if settings["dtype"] != "float32" and any(row["num_identical"] is not None for row in result["rows"]):
        remarks.append(
            f"Identical: to the greedy output without speculation. In {settings['dtype']} outputs can differ with the "
            "number of rows in a batch, with or without speculation; float32 is where they can be compared."
        )
    for row in result["rows"]:
        if settings["dtype"] == "float32" and row["num_identical"] not in (None, row["num_prompts"]):
            differing = row["num_prompts"] - row["num_identical"]
            remarks.append(
                f"NOT identical: {' k = '.join(method_cells(row)[1:])}, {differing} of {row['num_prompts']} outputs."
            )
    if any("schedule" in row for row in result["rows"]):
        remarks.append(
            "Scheduled FIRST:LAST:K: K draft tokens in a round of FIRST to LAST requests; the column k has the largest "
            f"K. Acceptance is of up to {settings['max_num_seqs']} requests at once."
        )
    remarks += [f"Not measured: {method}: {why}." for method, why in result["missing"].items()]
    return remarks


def _by_task(rows: Sequence[Row]) -> str:
    tasks = list(dict.fromkeys(task for row in rows for task in row["tasks"]))
    return "Acceptance length (95%) by task\n\n" + _lengths(rows, "tasks", tasks)


def _by_turn(rows: Sequence[Row]) -> list[str]:
    rows = [row for row in rows if "turns" in row]
    if not rows:
        return []
    turns = list(dict.fromkeys(turn for row in rows for turn in row["turns"]))
    what = "Acceptance length (95%) by turn, with the target's greedy answers without speculation between them\n\n"
    return [what + _lengths(rows, "turns", turns)]


def _rates(rows: Sequence[Row]) -> str:
    lines = [
        [
            *method_cells(row),
            numbers(row["acceptance_rate_per_position"]),
            numbers(row["conditional_acceptance_rate_per_position"]),
        ]
        for row in rows
    ]
    title = "Acceptance rate per position: of all drafts, and of those accepted up to the position before\n\n"
    return title + markdown([*METHOD_COLUMNS, "rate per position", "conditional rate"], lines)


def _by_context(rows: Sequence[Row]) -> str:
    ranges = dict.fromkeys(name for row in rows for name in row["by_context_length"])
    what = "tokens of prompt and output before the round"
    if any(row["context_length_is"] != "round" for row in rows):
        what = "tokens of the prompt (this vLLM does not tell the rounds of a request)"
    ordered = sorted(ranges, key=lambda name: int(name.split("-")[0]))
    return f"Acceptance length (95%) by context: {what}\n\n" + _lengths(rows, "by_context_length", ordered)


def _lengths(rows: Sequence[Row], group: str, names: Sequence[str]) -> str:
    """The acceptance length of each part of a row; a part that it does not have is empty."""
    lines = [
        [*method_cells(row), *(_length(row[group][name]) if name in row[group] else "" for name in names)]
        for row in rows
    ]
    return markdown([*METHOD_COLUMNS, *names], lines)


def _speeds(rows: Sequence[Row]) -> str:
    lines = [
        [
            *method_cells(row),
            str(row["batch_size"]),
            f"{row['output_tokens_per_second']:.1f} / {row['baseline_output_tokens_per_second']:.1f}",
            interval_cell(row, "speedup", "x"),
            " ".join([f"{row['num_pairs']}:", *(f"{one:.2f}x" for one in row["speedup_of_pairs"])]),
            f"{number(row['median_time_to_first_token_ms'], 0)} / "
            f"{number(row['baseline_median_time_to_first_token_ms'], 0)}",
            " ".join(f"{task} {found['speedup']:.2f}x" for task, found in row.get("tasks", {}).items()),
        ]
        for row in rows
    ]
    names = [*METHOD_COLUMNS, "batch", "tokens/s / without", "speedup (95%)", "pairs"]
    title = (
        f"Speed: {rows[0]['num_prompts']} prompts, both engines in turn, prefill included, end-of-text ignored; a "
        "batch of n is n prompts at once until the last is done. Pairs: of engines, with the speedup of each. The "
        "interval of one pair is over prompts (batches) alone, and another pair may differ by more; that of several is "
        "over pairs and prompts\n\n"
    )
    return title + markdown([*names, "median time to first token, ms / without", "by task"], lines)


def _length(row: Row) -> str:
    return interval_cell(row, "acceptance_length")
