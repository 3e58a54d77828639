"""Table and plot of `vllm-mtp bench round`."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vllm_mtp.benchmarks.harness.method import method_of
from vllm_mtp.benchmarks.harness.plot import stacked_bars
from vllm_mtp.benchmarks.harness.report import Result, interval_cell, made_on, markdown, options_text
from vllm_mtp.benchmarks.rounds.trace import PARTS


def table(result: Result) -> str:
    """A line for each method and batch size, with the share of each part of a round."""
    settings = result["settings"]
    about = (
        f"{result['draft']} for {result['target']}, {settings['dtype']}, "
        f"{'eager' if settings['enforce_eager'] else 'torch.compile'}, temperature {settings['temperature']:g}, "
        f"{settings['max_tokens']} tokens a prompt{options_text(settings)}. {made_on(*result['origins'])}.\n\n"
        "Share of a round, %, with the 95% interval over rounds. With profiler: time for the same tokens beside an "
        "engine without it. It costs most where operations are small and many."
    )
    names = ["batch", "method", "k", "rounds", *PARTS.values(), "with profiler (95%)"]
    return "\n\n".join([about, markdown(names, map(_line, result["rows"]))])


def plot(result: Result, pyplot: Any) -> Any:
    """A bar for each method and batch size, of the parts of a round one after another."""
    bars = bars_of(result)
    figure, axes = pyplot.subplots(figsize=(8, 1.8 + 0.4 * len(bars)), layout="constrained")
    stacked_bars(axes, bars)
    axes.set_xlabel("% of a round")
    figure.legend(ncols=3, loc="outside lower center")
    return figure


def bars_of(result: Result) -> dict[str, dict[str, float]]:
    """The share of each part, under what plots call it, by method and batch size."""
    return {bar_name(row): {label: row["shares"][part] for part, label in PARTS.items()} for row in result["rows"]}


def bar_name(row: Mapping[str, Any]) -> str:
    method = replace(method_of(row), local_argmax=False)
    return f"{method}, batch {row['batch_size']}"


def share_cell(row: Mapping[str, Any], part: str) -> str:
    """A share in %, with its interval."""
    low, high = row["shares_95"][part]
    return f"{100 * row['shares'][part]:.1f} ({100 * low:.1f}-{100 * high:.1f})"


def _line(row: Mapping[str, Any]) -> list[str]:
    first = [str(row["batch_size"]), method_of(row).label, str(row["num_speculative_tokens"]), str(row["num_rounds"])]
    return [*first, *(share_cell(row, part) for part in PARTS), interval_cell(row, "time_with_profiler", "x")]
