"""The table that `vllm-mtp eval` prints."""

from collections.abc import Mapping, Sequence
from typing import Any

from vllm_mtp.benchmarks.harness.report import interval_cell, markdown, number, numbers
from vllm_mtp.module.draft_loop import SOURCES


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    names = ["temperature", "k", "acceptance length (95%)", "without loops", "loops", "identical", "matched"]
    names += [f"accepted per draft from {' + '.join(SOURCES)}", "rate per position"]
    lines = [
        [
            f"{row['temperature']:g}",
            str(row["num_speculative_tokens"]),
            interval_cell(row, "acceptance_length"),
            number(row["acceptance_length_without_loops"]),
            str(row["num_loops"]),
            "-" if row["num_identical"] is None else f"{row['num_identical']} of {row['num_prompts']}",
            f"{row['share_of_drafts_matched']:.2f}",
            " + ".join(number(row["accepted_by_source"].get(name, 0) / max(1, row["num_drafts"])) for name in SOURCES),
            numbers(row["acceptance_rate_per_position"]),
        ]
        for row in rows
    ]
    return markdown(names, lines)
