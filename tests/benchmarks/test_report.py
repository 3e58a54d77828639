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


def runs_of(drafted_ids: list[int], drafted_seconds: float) -> list[Run]:
    plain_ids, loop = list(range(100)), [1, 2] * 50
    plain = Run(num_speculative_tokens=0, dtype="float32")
    faster = Run(num_speculative_tokens=0, dtype="bfloat16")
    drafted = Run(num_speculative_tokens=2, dtype="float32")
    for temperature in (0.0, 1.0):
        plain.passes[temperature] = [[result(plain_ids, 2.0, []), result(loop, 2.0, [])]] * 3
        faster.passes[temperature] = [[result(plain_ids, 1.0, []), result(loop, 1.0, [])]] * 3
        drafted.passes[temperature] = [
            [result(drafted_ids, drafted_seconds, [8, 4]), result(loop, drafted_seconds, [10, 10])]
        ] * 3
    return [plain, faster, drafted]


def test_the_baseline_is_the_fastest_engine_without_speculation() -> None:
    """A slower dtype as the baseline would flatter every speedup."""
    rows = rows_of(runs_of(list(range(100)), drafted_seconds=0.5))
    assert [(row["method"], row["dtype"], row["speedup"]) for row in rows[:2]] == [
        ("none", "bfloat16", 1.0),
        ("mtp", "float32", 2.0),
    ]
    assert rows[1]["num_identical"] == 2  # against no speculation in the same dtype
    assert rows[3]["num_identical"] is None  # temperature 1


def test_loops_are_counted_and_left_out_of_the_second_figure() -> None:
    row = rows_of(runs_of(list(range(100)), drafted_seconds=0.5))[1]
    assert (row["num_loops"], row["num_prompts"]) == (1, 2)
    assert row["acceptance_length"] == pytest.approx(2.6)
    assert row["acceptance_length_without_loops"] == pytest.approx(2.2)


def test_the_table_tells_slowdowns_and_differences(tmp_path: Path) -> None:
    rows = rows_of(runs_of([0] * 100, drafted_seconds=4.0))
    outcome = {"rows": rows, "max_tokens": 100, "compiled": True, "hardware": "cpu", "versions": {}, "target": "t"}
    text = table(outcome)
    assert "Slower than no speculation: k = 2 at temperature 0 (0.25x)" in text
    assert "NOT identical: k = 2, 1 of 2 outputs" in text
    pytest.importorskip("matplotlib")
    plot(outcome, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000
