"""From measured passes to the demo's rows, table and plot."""

from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from vllm_mtp.acceptance import Acceptance, ends_in_loop, total

Pass = list[dict[str, Any]]


@dataclass(kw_only=True, slots=True)
class Run:
    """One K and its passes over all prompts, by temperature (`EngineProcess.measure`)."""

    num_speculative_tokens: int
    passes: dict[float, list[Pass]] = field(default_factory=dict)
    exact_outputs: list[list[int]] = field(default_factory=list)
    """Greedy token ids in float32, in which outputs can be compared."""

    def speeds(self, temperature: float) -> list[float]:
        """Output tokens per second of each pass."""
        return [
            sum(len(result["token_ids"]) for result in one) / sum(result["seconds"] for result in one)
            for one in self.passes[temperature]
        ]


def rows_of(runs: list[Run]) -> list[dict[str, Any]]:
    """One row per K and temperature. The first run is the baseline, without speculation; ratios are pass by pass."""
    baseline = runs[0]
    rows = []
    for temperature in baseline.passes:
        for run in runs:
            k = run.num_speculative_tokens
            ratios = [a / b for a, b in zip(run.speeds(temperature), baseline.speeds(temperature), strict=True)]
            last = run.passes[temperature][-1]
            identical = sum(a == b for a, b in zip(run.exact_outputs, baseline.exact_outputs, strict=True))
            rows.append(
                {
                    "method": "mtp" if k else "none",
                    "num_speculative_tokens": k,
                    "temperature": temperature,
                    **_acceptance_of(run.passes[temperature], k),
                    "output_tokens_per_second": round(median(run.speeds(temperature)), 1),
                    "output_tokens_per_second_of_passes": [round(speed, 1) for speed in run.speeds(temperature)],
                    "speedup": round(median(ratios), 3),
                    "speedup_of_passes": [round(ratio, 3) for ratio in ratios],
                    "num_identical": identical if temperature == 0 else None,
                    "num_prompts": len(last),
                    "num_loops": sum(ends_in_loop(result["token_ids"]) for result in last),
                }
            )
    return rows


def _acceptance_of(passes: list[Pass], k: int) -> dict[str, Any]:
    if k == 0:
        return {"acceptance_length": 1.0, "acceptance_rate_per_position": [], "acceptance_length_without_loops": None}
    results = [result for one in passes for result in one]
    straight = [result for result in results if not ends_in_loop(result["token_ids"])]
    joined = total([_counts(result) for result in results])
    return {
        "acceptance_length": round(joined.acceptance_length, 3),
        "acceptance_rate_per_position": [round(rate, 3) for rate in joined.acceptance_rate_per_position],
        "acceptance_length_without_loops": (
            round(total([_counts(result) for result in straight]).acceptance_length, 3) if straight else None
        ),
    }


def _counts(result: dict[str, Any]) -> Acceptance:
    return Acceptance(
        num_drafts=result["num_drafts"],
        num_draft_tokens=result["num_draft_tokens"],
        num_accepted_tokens_per_position=tuple(result["num_accepted_tokens_per_position"]),
    )


def table(result: dict[str, Any]) -> str:
    """The demo's table in Markdown, with what it must not hide: looping outputs, differing outputs, slowdowns."""
    rows = result["rows"]
    num_prompts = rows[0]["num_prompts"]
    lines = [
        f"{num_prompts} held-out prompts, {result['max_tokens']} new tokens each, batch 1, "
        f"{'torch.compile' if result['compiled'] else 'eager'} and {result['dtype']} on both sides, "
        f"{result['hardware']}, "
        f"{', '.join(f'{name} {number}' for name, number in result['versions'].items())}",
        "",
        "| temperature | method | k | tokens/s | speedup (passes) | acceptance length | without loops | loops "
        "| acceptance rate per position | identical |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        low, high = min(row["speedup_of_passes"]), max(row["speedup_of_passes"])
        speedup = f"{row['speedup']:.2f}x ({low:.2f}-{high:.2f})"
        without = row["acceptance_length_without_loops"]
        identical = "" if row["num_identical"] is None else f"{row['num_identical']} of {row['num_prompts']}"
        lines.append(
            f"| {row['temperature']:g} | {row['method']} | {row['num_speculative_tokens']} "
            f"| {row['output_tokens_per_second']:.0f} | {speedup} | {row['acceptance_length']:.2f} "
            f"| {'' if without is None else f'{without:.2f}'} | {row['num_loops']} "
            f"| {' '.join(f'{rate:.2f}' for rate in row['acceptance_rate_per_position'])} | {identical} |"
        )
    if result["dtype"] != "float32":
        lines.append(
            f"\nIdentical: greedy token ids in float32. In {result['dtype']} some kernels give another result for one "
            "row than for several, with or without speculation."
        )
    drafted = [row for row in rows if row["method"] == "mtp"]
    for temperature in dict.fromkeys(row["temperature"] for row in drafted):
        best = max((row for row in drafted if row["temperature"] == temperature), key=lambda row: row["speedup"])
        lines.append(
            f"\nBest at temperature {temperature:g}: k = {best['num_speculative_tokens']}, {best['speedup']:.2f}x."
        )
    slower = [row for row in drafted if row["speedup"] < 1]
    lines += [
        f"Slower than no speculation: k = {row['num_speculative_tokens']} at temperature {row['temperature']:g} "
        f"({row['speedup']:.2f}x)."
        for row in slower
    ]
    differing = [row for row in drafted if row["num_identical"] not in (None, row["num_prompts"])]
    lines += [
        f"NOT identical: k = {row['num_speculative_tokens']}, {row['num_identical']} of {row['num_prompts']} outputs."
        for row in differing
    ]
    return "\n".join(lines)


def plot(result: dict[str, Any], path: Path) -> None:
    """Tokens per second by K, and the acceptance rate per position, one panel each, as PNG."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, (speed_axes, rate_axes) = pyplot.subplots(1, 2, figsize=(10, 4))
    for number, temperature in enumerate(dict.fromkeys(row["temperature"] for row in result["rows"])):
        rows = [row for row in result["rows"] if row["temperature"] == temperature]
        positions = [index + 0.4 * number - 0.2 for index in range(len(rows))]
        bars = speed_axes.bar(
            positions, [row["output_tokens_per_second"] for row in rows], 0.38, label=f"temperature {temperature:g}"
        )
        speed_axes.bar_label(bars, [f"{row['speedup']:.2f}x" for row in rows], fontsize=8)
        speed_axes.set_xticks(range(len(rows)), [f"k = {row['num_speculative_tokens']}" for row in rows])
        longest = max(rows, key=lambda row: row["num_speculative_tokens"])
        rate_axes.plot(longest["acceptance_rate_per_position"], marker="o", label=f"temperature {temperature:g}")
    speed_axes.set_ylabel("output tokens per second, batch 1")
    speed_axes.set_title("Speed (label: speedup over no speculation)")
    rate_axes.set_xlabel("position of the draft token")
    rate_axes.set_ylabel("acceptance rate")
    rate_axes.set_ylim(0, 1)
    rate_axes.set_title("Acceptance rate per position at the largest k")
    for axes in (speed_axes, rate_axes):
        axes.legend()
    figure.suptitle(f"MTP drafter for {result['target']}")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
