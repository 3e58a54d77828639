"""The table of the study of fine-tunes. Pure functions of results.json."""

from collections.abc import Mapping, Sequence
from typing import Any

from vllm_mtp.benchmarks.harness.report import Result, interval_cell, made_on, markdown

Row = Mapping[str, Any]


def table(result: Result) -> str:
    """A line for what is compared, and a table with a row for each drafter, seeds beside each other."""
    return f"{_heading(result)}\n\n{_arms(result['arms'])}"


def _heading(result: Result) -> str:
    tuned, origins = result["tuned"], [arm["made_with"] for arm in result["arms"]]
    nats = tuned["held_out_nats_per_token"]
    return (
        f"Acceptance length at k = {result['k']}, the module alone, on {result['num_prompts']} held-out prompts of the "
        f"tuned target's kind, {result['max_tokens']} new tokens each, with its 95% interval over prompts; one for "
        f"each seed. Tuned on {tuned['tokens']:,} tokens: {nats['before']:.2f} nats/token on held-out text before, "
        f"{nats['after']:.2f} after, {tuned['share_of_greedy_outputs_that_differ']:.0%} of greedy outputs differ. "
        "Greedy outputs of a model this small loop, which flatters a drafter. "
        f"{made_on(*origins)}"
    )


def _arms(arms: Sequence[Row]) -> str:
    groups: dict[tuple[str, ...], list[Row]] = {}
    for arm in arms:
        groups.setdefault(_labels(arm), []).append(arm)
    lines = [
        [*labels, *(", ".join(_length(arm, at) for arm in group) for at in ("0", "1")), _loops(group)]
        for labels, group in groups.items()
    ]
    names = ["target", "drafter", "tokens", "peak learning rate", "temperature 0", "temperature 1", "loops at 0"]
    return markdown(names, lines)


def _labels(arm: Row) -> tuple[str, ...]:
    if not arm["tokens"]:
        return arm["on"], "old, as it is", "0", ""
    start = "from nothing" if arm["start"] == "nothing" else "from the old one"
    return arm["on"], start, f"{arm['tokens']:,}", f"{arm['learning_rate'] or 0.02:g}"


def _length(arm: Row, temperature: str) -> str:
    return interval_cell(arm["temperatures"][temperature], "acceptance_length")


def _loops(arms: Sequence[Row]) -> str:
    """Greedy outputs that end in a loop, which flatters a drafter."""
    greedy = [arm["temperatures"]["0"] for arm in arms]
    return ", ".join(f"{row['num_loops']} of {row['num_prompts']}" for row in greedy)
