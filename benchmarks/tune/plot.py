"""The plot of `vllm-mtp tune`."""

from typing import Any

from vllm_mtp.benchmarks.harness.method import method_of
from vllm_mtp.benchmarks.harness.report import Result


def plot(result: Result, pyplot: Any) -> Any:
    """Predicted speedup over batch size for each K with the chosen lookup, and what the verification measured."""
    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    lookup = method_of(result["choice"]["method"]).lookup
    rows = [row for row in result["predictions"] if method_of(row).lookup == lookup]
    for k in sorted({row["num_speculative_tokens"] for row in rows}):
        of_k = [row for row in rows if row["num_speculative_tokens"] == k]
        axes.plot([row["batch_size"] for row in of_k], [row["speedup"] for row in of_k], "o-", label=f"k = {k}")
    checked = result["verification"]
    if checked:
        measured = [row["measured_speedup"] for row in checked]
        ends = [row["measured_speedup_95"] for row in checked]
        # A bootstrap's interval over few turns may leave the value out.
        bars = [
            [max(0.0, value - low) for value, (low, _) in zip(measured, ends, strict=True)],
            [max(0.0, high - value) for value, (_, high) in zip(measured, ends, strict=True)],
        ]
        sizes = [row["batch_size"] for row in checked]
        axes.errorbar(sizes, measured, yerr=bars, fmt="ks", capsize=4, label="chosen, measured")
    axes.axhline(1, color="grey", linewidth=1)
    axes.set_xscale("log", base=2)
    sizes = sorted({row["batch_size"] for row in rows})
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.set_xlabel("requests at once")
    axes.set_ylim(bottom=0)
    axes.set_title("Speedup predicted for each k, and measured")
    axes.legend()
    return figure
