"""Table and plot of `vllm-mtp bench serving`."""

from collections.abc import Mapping
from typing import Any

from vllm_mtp.benchmarks.harness.method import method_of
from vllm_mtp.benchmarks.harness.report import Result, interval_cell, made_on, markdown, number, options_text
from vllm_mtp.benchmarks.serving.load import PERCENTILES


def table(result: Result) -> str:
    """A line for each method and concurrency, with its ratios to no speculation at the same concurrency."""
    percentiles = " / ".join(f"p{percent}" for percent in PERCENTILES)
    names = ["concurrency", "method", "k", f"first token, ms, {percentiles}", f"per token, ms, {percentiles}"]
    names += ["tokens/s", *_RATIOS.values(), "goodput, requests/s", "acceptance length"]
    settings = result["settings"]
    bounds = ", ".join(settings["bounds"]) or "none"
    about = (
        f"{result['target']}, {settings['dtype']}, {settings['max_tokens']} tokens a request, temperature "
        f"{settings['temperature']:g}, goodput within {bounds}{options_text(settings)}. {made_on(*result['origins'])}."
    )
    missing = [f"{method}: not measured, {why}" for method, why in result["missing"].items()]
    return "\n\n".join([about, markdown(names, map(_line, result["rows"])), _how(result["repeats"]), *missing])


def _how(repeats: int) -> str:
    of = "requests" if repeats == 1 else f"{repeats} repeats with servers of their own and over requests"
    return (
        f"Ratios (x) are to no speculation at the same concurrency, with 95% intervals over {of}: of tokens/s above 1 "
        "is better, of times (means over requests) below 1. Other figures are means over repeats."
    )


def plot(result: Result, pyplot: Any) -> Any:
    """Throughput, its ratio to no speculation and median latency over concurrency, a line for each method."""
    figure, (speed, gain, latency) = pyplot.subplots(1, 3, figsize=(15, 4))
    for method in dict.fromkeys(str(method_of(row)) for row in result["rows"]):
        rows = [row for row in result["rows"] if str(method_of(row)) == method]
        clients = [row["concurrency"] for row in rows]
        speed.plot(clients, [row["output_tokens_per_s"] for row in rows], "o-", label=method)
        ratios = [row.get("output_tokens_per_s_ratio", 1.0) for row in rows]
        bounds = [row.get("output_tokens_per_s_ratio_95", (1.0, 1.0)) for row in rows]
        below = [value - low for value, (low, _) in zip(ratios, bounds, strict=True)]
        above = [high - value for value, (_, high) in zip(ratios, bounds, strict=True)]
        gain.errorbar(clients, ratios, yerr=(below, above), fmt="o-", capsize=3)
        latency.plot(clients, [row["tpot_p50_ms"] for row in rows], "o-")
    numbers = sorted({row["concurrency"] for row in result["rows"]})
    titles = "tokens/s", "tokens/s by that without speculation (bars: 95%)", "ms per output token, median"
    for axes, title in zip((speed, gain, latency), titles, strict=True):
        axes.set_xscale("log", base=2)
        axes.set_xticks(numbers, [str(number) for number in numbers])
        axes.set_xlabel("requests at once")
        axes.set_title(title, fontsize=10)
        axes.set_ylim(bottom=0)
    speed.legend()
    return figure


def _line(row: Mapping[str, Any]) -> list[str]:
    latencies = [" / ".join(number(row[f"{name}_p{percent}_ms"], 1) for percent in PERCENTILES) for name in _LATENCIES]
    first = [str(row["concurrency"]), method_of(row).label, str(row["num_speculative_tokens"])]
    ratios = [interval_cell(row, name) if name in row else "1" for name in _RATIOS]
    goodput, length = row["goodput_requests_per_s"], row.get("acceptance_length")
    return [*first, *latencies, number(row["output_tokens_per_s"], 1), *ratios, number(goodput), number(length)]


_LATENCIES = ("ttft", "tpot")
_RATIOS = {
    "output_tokens_per_s_ratio": "x tokens/s (95%)",
    "ttft_ratio": "x first token (95%)",
    "tpot_ratio": "x per token (95%)",
}
