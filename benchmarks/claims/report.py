"""From the rows of the claims study to results.json, results.md and claims.png."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vllm_mtp.benchmarks.acceptance.table import made_on, markdown
from vllm_mtp.benchmarks.claims.arms import Arm, Comparison, arms_of
from vllm_mtp.benchmarks.claims.plot import plot
from vllm_mtp.benchmarks.claims.statistics import Counts, difference, estimate, verdict
from vllm_mtp.common.files import write_atomically

Rows = Mapping[tuple[str, int], Mapping[str, Any]]
"""Of an arm's name and a seed."""
Speeds = Mapping[int, Mapping[str, Any]]
"""`seconds` by arm's name, of each seed of the vocabulary claim."""


def acceptance_counts(rows: Rows, arm: Arm, seeds: Sequence[int], temperature: str) -> Counts:
    """Acceptance length: 1 + accepted / drafts."""
    found = [rows[arm.name, seed]["counts"][temperature] for seed in seeds]
    return Counts(
        above_SP=[[sum(accepted) for accepted in counts["accepted_per_position"]] for counts in found],
        below_SP=[counts["num_drafts"] for counts in found],
        offset=1.0,
    )


def rates_per_position(rows: Rows, arm: Arm, seeds: Sequence[int], temperature: str) -> list[float]:
    """Acceptance rate per position, unconditional, mean over seeds."""
    found = [rows[arm.name, seed]["counts"][temperature] for seed in seeds]
    positions = range(len(found[0]["accepted_per_position"][0]))
    return [
        round(
            sum(sum(a[i] for a in counts["accepted_per_position"]) / sum(counts["num_drafts"]) for counts in found)
            / len(found),
            4,
        )
        for i in positions
    ]


def arm_figures(rows: Rows, arm: Arm, seeds: Sequence[int], temperatures: Sequence[str]) -> dict[str, Any]:
    """What results.json says of an arm."""
    own = [rows[arm.name, seed] for seed in seeds]
    return {
        "arm": arm.name,
        "what": str(arm),
        "tokens_seen": [row["tokens_seen"] for row in own],
        "distinct_tokens": own[0]["distinct_tokens"],
        "training_seconds": [row["training_seconds"] for row in own],
        "temperatures": {
            temperature: {
                "acceptance_length": estimate(acceptance_counts(rows, arm, seeds, temperature)).as_dict(),
                "acceptance_rate_per_position": rates_per_position(rows, arm, seeds, temperature),
                "num_loops": [row["counts"][temperature]["num_loops"] for row in own],
            }
            for temperature in temperatures
        },
    }


def claim_rows(
    some: Sequence[Comparison], rows: Rows, speeds: Speeds, seeds: Sequence[int], temperatures: Sequence[str]
) -> list[dict[str, Any]]:
    """One row per claim and metric; tokens/s only where every seed was timed."""
    found = []
    for comparison in some:
        if comparison.metric == "speed":
            if all(seed in speeds for seed in seeds):
                two = [_speed_counts(speeds, arm, seeds) for arm in (comparison.better, comparison.worse)]
                found.append(_claim(comparison, "tokens/s, greedy, batch 1", *two, relative=True))
            continue
        for temperature in temperatures:
            two = [acceptance_counts(rows, arm, seeds, temperature) for arm in (comparison.better, comparison.worse)]
            found.append(_claim(comparison, f"acceptance length, temperature {temperature}", *two))
    return found


def _speed_counts(speeds: Speeds, arm: Arm, seeds: Sequence[int]) -> Counts:
    seconds = [speeds[seed]["seconds"][arm.name] for seed in seeds]
    max_tokens = speeds[seeds[0]]["max_tokens"]
    return Counts(above_SP=[[max_tokens] * len(of_prompts) for of_prompts in seconds], below_SP=seconds)


def _claim(comparison: Comparison, metric: str, one: Counts, two: Counts, *, relative: bool = False) -> dict[str, Any]:
    between = difference(one, two, relative=relative)
    return {
        "claim": comparison.claim,
        "statement": comparison.statement,
        "metric": metric,
        "better": {"arm": comparison.better.name, **estimate(one).as_dict()},
        "worse": {"arm": comparison.worse.name, **estimate(two).as_dict()},
        "difference_is": "better / worse - 1" if relative else "better - worse",
        "difference": between.as_dict(),
        "verdict": verdict(between),
    }


def result_of(
    some: Sequence[Comparison],
    rows: Rows,
    speeds: Speeds,
    seeds: Sequence[int],
    temperatures: Sequence[str],
    about: Mapping[str, Any],
) -> dict[str, Any]:
    """Everything that results.json holds; no text."""
    return {
        **about,
        "seeds": list(seeds),
        "claims": claim_rows(some, rows, speeds, seeds, temperatures),
        "arms": [arm_figures(rows, arm, seeds, temperatures) for arm in arms_of(list(some))],
    }


def _sampled(seeds: Sequence[int]) -> str:
    if len(seeds) == 1:
        return "prompts (bootstrap) alone, of one seed"
    return "seeds (t, paired by seed) and prompts (bootstrap) together"


def table(result: Mapping[str, Any]) -> str:
    """results.md."""
    seeds = ", ".join(str(seed) for seed in result["seeds"])
    tokens = [seen for arm in result["arms"] for seen in arm["tokens_seen"]]
    claims = [
        [
            claim["claim"],
            claim["statement"],
            claim["metric"],
            _estimate(claim["better"]),
            _estimate(claim["worse"]),
            _estimate(claim["difference"], percent="/" in claim["difference_is"]),
            claim["verdict"],
        ]
        for claim in result["claims"]
    ]
    arms = [
        [
            arm["what"],
            f"{arm['tokens_seen'][0]:,} ({' + '.join(f'{n:,}' for n in arm['distinct_tokens'])})",
            f"{min(arm['training_seconds']):.0f}-{max(arm['training_seconds']):.0f}",
            *(
                f"{_estimate(figures['acceptance_length'])}; "
                + " ".join(f"{rate:.2f}" for rate in figures["acceptance_rate_per_position"])
                for figures in arm["temperatures"].values()
            ),
        ]
        for arm in result["arms"]
    ]
    temperatures = [f"temperature {name}" for name in result["arms"][0]["temperatures"]]
    return "\n".join(
        [
            f"Claims on {result['target']}, seeds {seeds}, {min(tokens):,} to {max(tokens):,} tokens seen by every "
            f"arm; k = {result['num_speculative_tokens']}, {result['num_prompts']} held-out prompts, "
            f"{result['max_tokens']} new tokens each, {result['dtype']}; {made_on(result['made_with'])}",
            "",
            markdown(["claim", "is it so that", "measured", "first", "second", "difference", "verdict"], claims),
            "",
            f"In brackets: 95% intervals over {_sampled(result['seeds'])}; of tokens/s "
            "the difference in per cent. Reproduced: the interval is above zero; opposite: below. Not corrected for "
            "the number of comparisons; learning rates were not tuned for any arm.",
            "",
            "Arms: tokens seen on the first seed (distinct ones of each stage), seconds of training, acceptance length "
            "and acceptance rate per position",
            "",
            markdown(["arm", "tokens", "seconds", *temperatures], arms),
        ]
    )


def _estimate(figures: Mapping[str, Any], *, percent: bool = False) -> str:
    low, high = figures["interval_95"]
    if percent:
        return f"{100 * figures['mean']:+.1f}% ({100 * low:+.1f} to {100 * high:+.1f})"
    return f"{figures['mean']:.3f} ({low:.3f} to {high:.3f})"


def write_report(result: Mapping[str, Any], output: Path) -> str:
    """Writes results.json, results.md and, where there is matplotlib, claims.png.

    Returns:
        The table.
    """
    write_atomically(output / "results.json", json.dumps(result, indent=1) + "\n")
    text = table(result)
    write_atomically(output / "results.md", text + "\n")
    try:
        plot(result, output / "claims.png")
    except ImportError:
        text += "\n\nNo plot, for want of matplotlib."
    return text
