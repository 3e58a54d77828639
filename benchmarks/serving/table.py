"""Table and plot of `vllm-mtp bench serving`."""

from collections.abc import Mapping
from typing import Any

from vllm_mtp.benchmarks.harness.method import method_of
from vllm_mtp.benchmarks.harness.report import Result, made_on, markdown, number, options_text
from vllm_mtp.benchmarks.serving.load import PERCENTILES


def table(result: Result) -> str:
    """A line for each method and concurrency, with throughput beside no speculation at the same concurrency."""
    percentiles = " / ".join(f"p{percent}" for percent in PERCENTILES)
    names = ["concurrency", "method", "k", f"first token, ms, {percentiles}", f"per token, ms, {percentiles}"]
    names += ["tokens/s", "x", "goodput, requests/s", "acceptance length"]
    plain = {row["concurrency"]: row for row in result["rows"] if row["method"] == "none"}
    lines = [_line(row, plain.get(row["concurrency"])) for row in result["rows"]]
    settings = result["settings"]
    bounds = ", ".join(settings["bounds"]) or "none"
    about = (
        f"{result['target']}, {settings['dtype']}, {settings['max_tokens']} tokens a request, temperature "
        f"{settings['temperature']:g}, goodput within {bounds}{options_text(settings)}. {made_on(*result['origins'])}."
    )
    missing = [f"{method}: not measured, {why}" for method, why in result["missing"].items()]
    return "\n\n".join([about, markdown(names, lines), *missing])


def plot(result: Result, pyplot: Any) -> Any:
    """Throughput and median latency over concurrency, a line for each method."""
    figure, (speed, latency) = pyplot.subplots(1, 2, figsize=(11, 4))
    for method in dict.fromkeys(str(method_of(row)) for row in result["rows"]):
        rows = [row for row in result["rows"] if str(method_of(row)) == method]
        clients = [row["concurrency"] for row in rows]
        speed.plot(clients, [row["output_tokens_per_s"] for row in rows], "o-", label=method)
        latency.plot(clients, [row["tpot_p50_ms"] for row in rows], "o-", label=method)
    numbers = sorted({row["concurrency"] for row in result["rows"]})
    for axes, title in ((speed, "tokens/s"), (latency, "ms per output token, median")):
        axes.set_xscale("log", base=2)
        axes.set_xticks(numbers, [str(number) for number in numbers])
        axes.set_xlabel("requests at once")
        axes.set_title(title)
        axes.set_ylim(bottom=0)
    speed.legend()
    return figure


def _line(row: Mapping[str, Any], plain: Mapping[str, Any] | None) -> list[str]:
    ratio = None if plain is None else row["output_tokens_per_s"] / plain["output_tokens_per_s"]
    latencies = [" / ".join(number(row[f"{name}_p{percent}_ms"], 1) for percent in PERCENTILES) for name in _LATENCIES]
    first = [str(row["concurrency"]), method_of(row).label, str(row["num_speculative_tokens"])]
    goodput, length = row["goodput_requests_per_s"], row.get("acceptance_length")
    return [*first, *latencies, number(row["output_tokens_per_s"], 1), number(ratio), number(goodput), number(length)]


_LATENCIES = ("ttft", "tpot")
