"""The Markdown of `vllm-mtp tune`: what to type, whether it holds, and what it was chosen from."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vllm_mtp.benchmarks.harness.method import Method, lookup_label, method_of
from vllm_mtp.benchmarks.harness.report import Result, interval_cell, made_on, markdown, numbers, options_text
from vllm_mtp.contract.lookup import Lookup

Row = Mapping[str, Any]
PAYS_ELSEWHERE = 1.1
"""The predicted speedup at another batch size that is worth a word."""


def table(result: Result) -> str:
    """All of it."""
    parts = [_about(result), _choice(result["choice"]), *_against(result)]
    if result["verification"]:
        parts += [_verification(result)]
    return "\n\n".join([*parts, _predictions(result), _acceptance(result["acceptance"])])


def _about(result: Result) -> str:
    settings = result["settings"]
    sampled = "".join(f", {name} {settings[name]:g}" for name in ("top_p", "top_k") if settings["temperature"])
    return (
        f"{result['draft']} for {result['target']}; {settings['num_prompts']} prompts, every second one for the "
        f"verification alone, at most {settings['max_tokens']} tokens, temperature {settings['temperature']:g}"
        f"{sampled}, {settings['dtype']}{options_text(settings)}. {made_on(*result['origins'])}."
    )


def _choice(choice: Row) -> str:
    size = choice["for_batch_size"]
    row = next(row for row in choice["by_batch_size"] if row["batch_size"] == size)
    speed = f"{row['speedup']:.2f}x ({row['speedup_95'][0]:.2f}-{row['speedup_95'][1]:.2f})"
    what = f"{method_of(choice['method'])}, for which {speed} is predicted at batch size {size}"
    commands = [one for one in (choice["lookup_command"], choice["serve_command"]) if one]
    typed = "\n".join(["```", *commands, "```"])
    if not choice["pays"]:
        others = [str(row["batch_size"]) for row in choice["by_batch_size"] if row["speedup"] > PAYS_ELSEWHERE]
        elsewhere = f" It pays at {', '.join(others)} requests at once (--for-batch-size)." if others else ""
        return f"**Do not speculate.** The best of the settings is {what}.{elsewhere}\n\n{typed}"
    return f"**Serve with {what}.**\n\n{typed}"


def _against(result: Result) -> Iterator[str]:
    """Where what was measured says otherwise than what was predicted, at the batch size that was chosen for."""
    pays, size = result["choice"]["pays"], result["choice"]["for_batch_size"]
    for row in (row for row in result["verification"] if row["batch_size"] == size):
        low, high = row["measured_speedup_95"]
        if (pays and high < 1) or (not pays and low > 1):
            measured = interval_cell(row, "measured_speedup", "x")
            yield (
                f"**The verification says otherwise**: {measured} was measured at batch size {size}. Ask again with "
                "more prompts and --turns, or with nothing else at work on the machine."
            )


def verified_cells(row: Row) -> list[str]:
    """Batch size, K, predicted and measured speedup, and the error of the prediction."""
    return [
        str(row["batch_size"]),
        str(row["num_speculative_tokens"]),
        interval_cell(row, "predicted_speedup", "x"),
        interval_cell(row, "measured_speedup", "x"),
        f"{100 * row['relative_error']:+.0f}%",
    ]


def _verification(result: Result) -> str:
    rows = result["verification"]
    lines = [
        [
            *verified_cells(row),
            f"{row['tokens_per_second']:.1f} / {row['tokens_per_second_without']:.1f}",
            f"{row['predicted_tokens_per_round']:.2f} / {row['tokens_per_round']:.2f}",
            f"{row['predicted_cost']:.2f} / {row['cost']:.2f}",
            str(row["num_turns"]),
        ]
        for row in rows
    ]
    names = ["batch", "k", "predicted (95%)", "measured (95%)", "error", "tokens/s / without"]
    names += ["tokens a round: predicted / measured", "cost of a round: predicted / measured", "turns"]
    title = (
        "Verification on the other prompts, in a fresh engine in turn with one without speculation. Speeds are of "
        "generating, with so many requests always under way; the reading of prompts is not in them"
    )
    if result["choice"].get("costs_beside_verification"):
        title += ". Predicted costs were timed in turn with it: those of the next table were timed before"
    return f"{title}\n\n{markdown(names, lines)}"


def _predictions(result: Result) -> str:
    sizes = list(dict.fromkeys(row["batch_size"] for row in result["predictions"]))
    by_method: dict[Method, dict[int, Row]] = {}
    for row in result["predictions"]:
        by_method.setdefault(method_of(row), {})[row["batch_size"]] = row
    lines = [
        [
            _lookup(method),
            str(method.num_speculative_tokens),
            f"{rows[sizes[0]]['tokens_per_round']:.2f}",
            *(f"{rows[size]['speedup']:.2f}x" for size in sizes),
        ]
        for method, rows in by_method.items()
    ]
    title = "Predicted speedup by batch size; k = 0 is what a schedule costs where it does not draft\n\n"
    return title + markdown(["lookup", "k", "tokens a round", *map(str, sizes)], lines)


def _lookup(method: Method) -> str:
    return lookup_label(method.lookup) if isinstance(method.lookup, Lookup) else method.lookup


def _acceptance(rows: Sequence[Row]) -> str:
    lines = [
        [_lookup(method_of(row)), interval_cell(row, "tokens_per_round"), numbers(row["acceptance_rate_per_position"])]
        for row in rows
    ]
    title = (
        f"Acceptance, counted with k = {rows[0]['num_speculative_tokens']} over {rows[0]['num_outputs']} prompts\n\n"
    )
    return title + markdown(["lookup", "tokens a round (95%)", "acceptance rate per position"], lines)
