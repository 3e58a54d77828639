"""The demo's rows and table: baseline, ratios, what must not be hidden."""

from pathlib import Path
from typing import Any

import pytest

from vllm_mtp.benchmarks.report import Run, plot, rows_of, table


def result(token_ids: list[int], seconds: float, accepted: list[int]) -> dict[str, Any]:
    drafts = 10 if accepted else 0
    return {
        "token_ids": token_ids,
        "seconds": seconds,
        "num_drafts": drafts,
        "num_draft_tokens": drafts * len(accepted),
        "num_accepted_tokens_per_position": accepted,
    }


def runs_of(exact_ids: list[int], drafted_seconds: float) -> list[Run]:
    ids, loop = list(range(100)), [1, 2] * 50
    plain = Run(num_speculative_tokens=0, exact_outputs=[ids, loop])
    drafted = Run(num_speculative_tokens=2, exact_outputs=[exact_ids, loop])
    for temperature in (0.0, 1.0):
        plain.passes[temperature] = [[result(ids, 1.0, []), result(loop, 1.0, [])]] * 3
        drafted.passes[temperature] = [
            [result(ids, drafted_seconds, [8, 4]), result(loop, drafted_seconds, [10, 10])]
        ] * 3
    return [plain, drafted]


def test_rows() -> None:
    rows = rows_of(runs_of(list(range(100)), drafted_seconds=0.5))
    assert [(row["method"], row["num_speculative_tokens"], row["temperature"], row["speedup"]) for row in rows] == [
        ("none", 0, 0.0, 1.0),
        ("mtp", 2, 0.0, 2.0),
        ("none", 0, 1.0, 1.0),
        ("mtp", 2, 1.0, 2.0),
    ]
    assert [row["num_identical"] for row in rows] == [2, 2, None, None]
    assert rows[1]["output_tokens_per_second"] == pytest.approx(200)


def test_ratios_are_taken_pass_by_pass() -> None:
    """A machine that slows down for a whole pass slows both engines: medians apart would see a difference."""
    plain, drafted = runs_of(list(range(100)), drafted_seconds=0.5)
    for run, seconds in ((plain, [1.0, 4.0, 2.0]), (drafted, [0.5, 2.0, 1.0])):
        run.passes = {0.0: [[result(list(range(100)), one, [5, 5] if run is drafted else [])] for one in seconds]}
        run.exact_outputs = [[1]]
    assert rows_of([plain, drafted])[1]["speedup_of_passes"] == [2.0, 2.0, 2.0]


def test_loops_are_counted_and_left_out_of_the_second_figure() -> None:
    row = rows_of(runs_of(list(range(100)), drafted_seconds=0.5))[1]
    assert (row["num_loops"], row["num_prompts"]) == (1, 2)
    assert row["acceptance_length"] == pytest.approx(2.6)
    assert row["acceptance_length_without_loops"] == pytest.approx(2.2)


def test_the_table_tells_slowdowns_and_differences(tmp_path: Path) -> None:
    rows = rows_of(runs_of([0] * 100, drafted_seconds=4.0))
    outcome = {"rows": rows, "max_tokens": 100, "compiled": True, "hardware": "cpu", "versions": {}, "target": "t"}
    text = table(outcome | {"dtype": "float32"})
    assert "Slower than no speculation: k = 2 at temperature 0 (0.25x)" in text
    assert "NOT identical: k = 2, 1 of 2 outputs" in text
    assert "Identical: greedy token ids in float32" in table(outcome | {"dtype": "bfloat16"})
    pytest.importorskip("matplotlib")
    plot(outcome, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000
