"""From the rows of the claims study to results.json and table.md."""

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from vllm_mtp.benchmarks.claims.arms import Arm, Comparison, arms_of
from vllm_mtp.benchmarks.claims.rows import ArmRow, SpeedRow
from vllm_mtp.benchmarks.harness.acceptance import Acceptance, total
from vllm_mtp.benchmarks.harness.report import Result, made_on, markdown, numbers, options_text
from vllm_mtp.benchmarks.harness.statistics import Estimate, Ratio, difference, estimate, relative_difference

Rows = Mapping[tuple[str, int], ArmRow]
"""Rows by an arm's name and a seed."""
Speeds = Mapping[int, SpeedRow]
"""Speeds by seed of the vocabulary claim."""


def result_of(
    comparisons: Sequence[Comparison], rows: Rows, speeds: Speeds, seeds: Sequence[int], prompt_tokens: Sequence[int]
) -> dict[str, Any]:
    """The figures of results.json.

    Args:
        comparisons: the claims.
        rows: of every arm and seed.
        speeds: of the seeds that were timed.
        seeds: of the study.
        prompt_tokens: tokens of each prompt, in the order of the rows' counts.
    """
    return {
        "seeds": list(seeds),
        "claims": claim_rows(comparisons, rows, speeds, seeds, prompt_tokens),
        "arms": [_arm_figures([rows[arm.name, seed] for seed in seeds], arm) for arm in arms_of(comparisons)],
    }


def claim_rows(
    comparisons: Sequence[Comparison], rows: Rows, speeds: Speeds, seeds: Sequence[int], prompt_tokens: Sequence[int]
) -> list[dict[str, Any]]:
    """One row per claim and metric; tokens/s only where every seed was timed, long prompts only where there are any."""
    found = []
    for comparison in comparisons:
        arms = comparison.better, comparison.worse
        if comparison.metric == "speed":
            if all(seed in speeds for seed in seeds):
                two = [tokens_per_second([speeds[seed] for seed in seeds], arm) for arm in arms]
                found.append(_claim(comparison, "tokens/s, greedy, batch 1", *two, relative=True))
            continue
        least = comparison.min_prompt_tokens
        chosen = [number for number, tokens in enumerate(prompt_tokens) if tokens >= least]
        if not chosen:
            continue
        where = f", {len(chosen)} prompts of {least} tokens or more" if least else ""
        for name in rows[arms[0].name, seeds[0]].counts:
            counts = [[rows[arm.name, seed].counts[name] for seed in seeds] for arm in arms]
            two = [acceptance_length([[one[number] for number in chosen] for one in of_arm]) for of_arm in counts]
            found.append(_claim(comparison, f"acceptance length, temperature {name}{where}", *two))
    return found


def acceptance_length(of_seeds: Sequence[Sequence[Acceptance]]) -> Ratio:
    """1 + accepted / drafts."""
    return Ratio(
        above_RP=[[one.num_accepted_tokens for one in counts] for counts in of_seeds],
        below_RP=[[one.num_drafts for one in counts] for counts in of_seeds],
        offset=1.0,
    )


def tokens_per_second(of_seeds: Sequence[SpeedRow], arm: Arm) -> Ratio:
    """Tokens / seconds; every prompt gave max_tokens of them."""
    seconds_RP = [row.seconds[arm.name] for row in of_seeds]
    tokens_RP = [[row.max_tokens] * len(row.seconds[arm.name]) for row in of_seeds]
    return Ratio(above_RP=tokens_RP, below_RP=seconds_RP)


def _claim(comparison: Comparison, metric: str, one: Ratio, two: Ratio, *, relative: bool = False) -> dict[str, Any]:
    between = relative_difference(one, two) if relative else difference(one, two)
    return {
        "claim": comparison.claim,
        "statement": comparison.statement,
        "metric": metric,
        "better": {"arm": comparison.better.name, **_fields(estimate(one))},
        "worse": {"arm": comparison.worse.name, **_fields(estimate(two))},
        "difference_is": "better / worse - 1" if relative else "better - worse",
        "difference": _fields(between),
        "verdict": verdict(between),
    }


def verdict(found: Estimate) -> str:
    """Verdict on a claim that the difference is above zero."""
    return "reproduced" if found.low > 0 else "opposite" if found.high < 0 else "not separated"


def _fields(found: Estimate) -> dict[str, Any]:
    interval = [round(found.low, 4), round(found.high, 4)]
    of_seeds = [round(value, 4) for value in found.of_runs]
    return {"mean": round(found.mean, 4), "interval_95": interval, "of_seeds": of_seeds}


def _arm_figures(of_seeds: Sequence[ArmRow], arm: Arm) -> dict[str, Any]:
    """What results.json says of an arm; rates are means over seeds."""

    def at(temperature: str) -> dict[str, Any]:
        counts = [row.counts[temperature] for row in of_seeds]
        rates = zip(*(total(of_seed).acceptance_rate_per_position for of_seed in counts), strict=True)
        return {
            "acceptance_length": _fields(estimate(acceptance_length(counts))),
            "acceptance_rate_per_position": [round(mean(of_position), 4) for of_position in rates],
            "num_loops": [row.num_loops[temperature] for row in of_seeds],
        }

    return {
        "arm": arm.name,
        "what": str(arm),
        "tokens_seen": [row.tokens_seen for row in of_seeds],
        "distinct_tokens": of_seeds[0].distinct_tokens,
        "training_seconds": [row.training_seconds for row in of_seeds],
        "temperatures": {temperature: at(temperature) for temperature in of_seeds[0].counts},
    }


def _sampled(seeds: Sequence[int]) -> str:
    if len(seeds) == 1:
        return "prompts (bootstrap) alone, of one seed"
    return "seeds (t, paired by seed) and prompts (bootstrap) together"


def table(result: Result) -> str:
    """The claims, then the arms."""
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
                f"{_estimate(figures['acceptance_length'])}; {numbers(figures['acceptance_rate_per_position'])}"
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
            f"{result['max_tokens']} new tokens each, {result['dtype']}{options_text(result)}; "
            f"{made_on(*result['made_with'])}",
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
