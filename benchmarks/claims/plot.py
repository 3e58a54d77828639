"""The plot of `vllm-mtp bench claims`."""

from typing import Any

from vllm_mtp.benchmarks.harness.report import Result

_COLORS = {"reproduced": "tab:green", "not separated": "tab:gray", "opposite": "tab:red"}


def plot(result: Result, pyplot: Any) -> Any:
    """Relative difference of every claim with its 95% interval, colored by verdict, and every seed."""
    claims = result["claims"]
    figure, axes = pyplot.subplots(figsize=(11, 1.2 + 0.42 * len(claims)))
    for place, claim in enumerate(claims):
        # All metrics on one axis: per cent of what the second arm has.
        scale = 100 / (1 if "/" in claim["difference_is"] else claim["worse"]["mean"])
        found = claim["difference"]
        low, high = (scale * bound for bound in found["interval_95"])
        mean, color = scale * found["mean"], _COLORS[claim["verdict"]]
        axes.errorbar(mean, place, xerr=[[mean - low], [high - mean]], fmt="o", color=color, capsize=3)
        axes.plot([scale * value for value in found["of_seeds"]], [place] * len(found["of_seeds"]), "|", color="black")
    axes.axvline(0, color="grey", linewidth=0.8)
    axes.set_yticks(range(len(claims)), [f"{claim['statement']}\n{claim['metric']}" for claim in claims], fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("difference, per cent of the second (bars: 95%; ticks: seeds)")
    for name, color in _COLORS.items():
        axes.plot([], [], "o", color=color, label=name)
    axes.legend(fontsize=8)
    axes.set_title(f"Claims on {result['target']}, {len(result['seeds'])} seeds", fontsize=10)
    figure.tight_layout()
    return figure
