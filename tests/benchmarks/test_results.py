"""Every published table is what today's code makes of the figures beside it.

Catches: a change of figures' names, of rounding or of a table's text that leaves published tables behind.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vllm_mtp.benchmarks.acceptance.table import table as acceptance_table
from vllm_mtp.benchmarks.claims.report import table as claims_table
from vllm_mtp.benchmarks.demo.report import table as demo_table
from vllm_mtp.benchmarks.finetune.table import table as finetune_table
from vllm_mtp.benchmarks.rounds.table import table as rounds_table
from vllm_mtp.benchmarks.serving.table import table as serving_table
from vllm_mtp.benchmarks.tune.table import table as tune_table

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
# Made before a table of speeds had pairs of engines, and results.json the drafter's lookup: compared up to the speeds.
WITHOUT_PAIRS = ("smollm2",)
# Made when columns were divided by |---|---|.
NARROW = ("demo-avx2",)


def table_of(result: dict[str, Any]) -> str:
    makers: dict[str, Callable[[Any], str]] = {
        "claims": claims_table,
        "verification": tune_table,
        "repeats": serving_table,
        "kind": rounds_table,
        "settings": acceptance_table,
        "tuned": finetune_table,
    }
    return next((make for key, make in makers.items() if key in result), demo_table)(result)


@pytest.mark.parametrize("path", sorted(RESULTS.rglob("results.json")), ids=lambda path: path.parent.name)
def test_a_published_table_can_be_made_again(path: Path) -> None:
    name, result = path.parent.relative_to(RESULTS).as_posix(), json.loads(path.read_text("utf-8"))
    text = path.with_name("table.md").read_text("utf-8")
    if name in WITHOUT_PAIRS:
        result |= {"draft_lookup": None, "speed_rows": []}
        text = text.partition("\n\nSpeed: ")[0] + "\n"
    if name in NARROW:
        text = re.sub(r"^\|[-|]+\|$", lambda line: line[0].replace("|", " | ").strip(), text, flags=re.MULTILINE)
    assert table_of(result) + "\n" == text


def test_all_of_them_are_compared() -> None:
    assert len(list(RESULTS.rglob("results.json"))) == 32


def test_the_worked_example_is_of_stored_figures() -> None:
    """docs/reading-acceptance.md: its table of rounds, made of demo-smollm2."""
    rows = json.loads((RESULTS / "demo-smollm2" / "results.json").read_text("utf-8"))["rows"]
    text = (RESULTS.parents[1] / "docs" / "reading-acceptance.md").read_text("utf-8")
    found = [_round(row) for row in rows if row["temperature"] == 0 and row["method"] != "none"]
    assert len(found) == 6
    assert "\n".join(found) in text


def _round(row: dict[str, Any]) -> str:
    low, high = row["speedup_95"]
    cost = row["tokens_per_forward"] / row["speedup"]
    figures = f"{row['acceptance_length']:.2f} | {row['tokens_per_forward']:.2f} | {row['speedup']:.2f}"
    return f"| {row['method']} | {row['num_speculative_tokens']} | {figures} ({low:.2f}-{high:.2f}) | {cost:.2f} |"
