"""The Markdown of `vllm-mtp bench acceptance`, with what it must not hide. Pure functions of results.json."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vllm_mtp.benchmarks.harness.method import lookup_label, method_of
from vllm_mtp.contract.lookup import Lookup

Row = Mapping[str, Any]


def table(result: Mapping[str, Any]) -> str:
    """All tables, each with a line that says what its numbers are."""
    rows, speed_rows = result["rows"], result["speed_rows"]
    drafted = [row for row in rows if row["method"] != "none"]
    parts = [_heading(result), _all(rows), *_remarks(result)]
    parts += [_by_task(drafted), _rates(drafted), _by_context(drafted)] if drafted else []
    parts += [_speeds(speed_rows)] if speed_rows else []
    return "\n\n".join(parts)


def _heading(result: Mapping[str, Any]) -> str:
    prompts, settings = result["prompts"], result["settings"]["acceptance"]
    left_out = f", {prompts['num_left_out']} too long and left out" if prompts["num_left_out"] else ""
    lookup = Lookup.of(result["draft_lookup"])
    draft = f"{result['draft']} ({lookup_label(lookup)})" if lookup else result["draft"]
    return (
        f"{draft} for {result['target']}; {prompts['num_prompts']} prompts of {prompts['file']} "
        f"(sha256 {prompts['sha256'][:12]}{left_out}), {'with' if prompts['chat_template'] else 'without'} chat "
        f"template, at most {settings['max_tokens']} new tokens, {settings['dtype']}, "
        f"{'eager' if settings['enforce_eager'] else 'torch.compile'}, {made_on(result['made_with'])}, "
        f"seed {settings['seed']}"
    )


def _all(rows: Sequence[Row]) -> str:
    lines = [
        [
            f"{row['temperature']:g}",
            *_method(row),
            _length(row) if row["method"] != "none" else "1",
            f"{row['tokens_per_forward']:.2f}",
            _number(row["acceptance_length_without_loops"]) if row["num_loops"] else "",
            f"{row['num_loops']} of {row['num_prompts']}",
            "" if row["num_identical"] is None else f"{row['num_identical']} of {row['num_prompts']}",
            f"{row['peak_memory_mib']:,}",
        ]
        for row in rows
    ]
    names = ["temperature", "method", "k", "acceptance length (95%)", "tokens per forward", "without loops"]
    return markdown([*names, "loops", "identical output", "peak memory, MiB"], lines)


def _remarks(result: Mapping[str, Any]) -> list[str]:
    costs, settings = result["kv_bytes_per_token"], result["settings"]["acceptance"]
    remarks = [
        "Acceptance length: over all prompts together, interval over prompts resampled. Tokens per forward: rounds "
        "without a draft included. End-of-text ends an output. Without loops: outputs left out whose end repeats "
        f"itself. The drafter adds {costs['drafter']:,} bytes of KV cache per token to the target's "
        f"{costs['target']:,}; peak memory has the engine's whole KV cache in it."
    ]
    if settings["dtype"] != "float32" and any(row["num_identical"] is not None for row in result["rows"]):
        remarks.append(
            f"Identical: to the greedy output without speculation. In {settings['dtype']} outputs can differ with the "
            "number of rows in a batch, with or without speculation; float32 is where they can be compared."
        )
    for row in result["rows"]:
        if settings["dtype"] == "float32" and row["num_identical"] not in (None, row["num_prompts"]):
            differing = row["num_prompts"] - row["num_identical"]
            remarks.append(f"NOT identical: {' k = '.join(_method(row))}, {differing} of {row['num_prompts']} outputs.")
    if any("schedule" in row for row in result["rows"]):
        remarks.append(
            "Scheduled FIRST:LAST:K: K draft tokens in a round of FIRST to LAST requests; the column k has the largest "
            f"K. Acceptance is of up to {settings['max_num_seqs']} requests at once."
        )
    remarks += [f"Not measured: {method}: {why}." for method, why in result["missing"].items()]
    return remarks


def _by_task(rows: Sequence[Row]) -> str:
    tasks = list(dict.fromkeys(task for row in rows for task in row["tasks"]))
    lines = [
        [
            f"{row['temperature']:g}",
            *_method(row),
            *(_length(row["tasks"][task]) if task in row["tasks"] else "" for task in tasks),
        ]
        for row in rows
    ]
    return "Acceptance length (95%) by task\n\n" + markdown(["temperature", "method", "k", *tasks], lines)


def _rates(rows: Sequence[Row]) -> str:
    lines = [
        [
            f"{row['temperature']:g}",
            *_method(row),
            " ".join(_number(rate) for rate in row["acceptance_rate_per_position"]),
            " ".join(_number(rate) for rate in row["conditional_acceptance_rate_per_position"]),
        ]
        for row in rows
    ]
    title = "Acceptance rate per position: of all drafts, and of those accepted up to the position before\n\n"
    return title + markdown(["temperature", "method", "k", "rate per position", "conditional rate"], lines)


def _by_context(rows: Sequence[Row]) -> str:
    ranges = dict.fromkeys(name for row in rows for name in row["by_context_length"])
    ordered = sorted(ranges, key=lambda name: int(name.split("-")[0]))
    lines = [
        [
            f"{row['temperature']:g}",
            *_method(row),
            *(_length(row["by_context_length"][name]) if name in row["by_context_length"] else "" for name in ordered),
        ]
        for row in rows
    ]
    by_round = all(row["context_length_is"] == "round" for row in rows)
    what = (
        "tokens of prompt and output before the round"
        if by_round
        else "tokens of the prompt (this vLLM does not tell the rounds of a request)"
    )
    return f"Acceptance length (95%) by context: {what}\n\n" + markdown(["temperature", "method", "k", *ordered], lines)


def _speeds(rows: Sequence[Row]) -> str:
    lines = [
        [
            f"{row['temperature']:g}",
            *_method(row),
            str(row["batch_size"]),
            f"{row['output_tokens_per_second']:.1f} / {row['baseline_output_tokens_per_second']:.1f}",
            _speedup(row),
            " ".join([f"{row['num_pairs']}:", *(f"{one:.2f}x" for one in row["speedup_of_pairs"])]),
            f"{_number(row['median_time_to_first_token_ms'], 0)} / "
            f"{_number(row['baseline_median_time_to_first_token_ms'], 0)}",
            " ".join(f"{task} {figures['speedup']:.2f}x" for task, figures in row.get("tasks", {}).items()),
        ]
        for row in rows
    ]
    names = ["temperature", "method", "k", "batch", "tokens/s / without", "speedup (95%)", "pairs"]
    title = (
        f"Speed: {rows[0]['num_prompts']} prompts, both engines in turn, prefill included, end-of-text ignored; a "
        "batch of n is n prompts at once until the last is done. Pairs: of engines, with the speedup of each. The "
        "interval of one pair is over prompts (batches) alone, and another pair may differ by more; that of several is "
        "over pairs and prompts\n\n"
    )
    return title + markdown([*names, "median time to first token, ms / without", "by task"], lines)


def _method(row: Row) -> list[str]:
    return [method_of(row).label, str(row["num_speculative_tokens"])]


def _length(figures: Row) -> str:
    low, high = figures["acceptance_length_95"]
    return f"{figures['acceptance_length']:.2f} ({low:.2f}-{high:.2f})"


def _speedup(figures: Row) -> str:
    low, high = figures["speedup_95"]
    return f"{figures['speedup']:.2f}x ({low:.2f}-{high:.2f})"


def _number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def made_on(origins: Sequence[Mapping[str, Any]]) -> str:
    """Hardware and versions. Rows may have been made on several machines, one after another."""
    hardware = dict.fromkeys(origin["hardware"] for origin in origins)
    versions = dict.fromkeys(f"{name} {number}" for origin in origins for name, number in origin["versions"].items())
    return f"{' and '.join(hardware)}, {', '.join(versions)}"


def markdown(names: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    rows = [names, ["---"] * len(names), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
