"""Table and plot of `vllm-mtp bench round`."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vllm_mtp.benchmarks.harness.method import method_of
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
    rows = result["rows"]
    figure, axes = pyplot.subplots(figsize=(8, 1.6 + 0.5 * len(rows)))
    names, before = [bar_name(row) for row in rows], [0.0] * len(rows)
    for part, label in PARTS.items():
        widths = [100 * row["shares"][part] for row in rows]
        axes.barh(names, widths, left=before, label=label)
        before = [start + width for start, width in zip(before, widths, strict=True)]
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("% of a round")
    figure.legend(ncols=3, loc="lower center", bbox_to_anchor=(0.5, -0.3))
    return figure


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
