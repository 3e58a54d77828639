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

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
# Made before a table of speeds had pairs of engines, and results.json the drafter's lookup: compared up to the speeds.
WITHOUT_PAIRS = ("smollm2",)
# Made when columns were divided by |---|---|.
NARROW = ("demo-avx2",)


def table_of(result: dict[str, Any]) -> str:
    makers: dict[str, Callable[[Any], str]] = {
        "claims": claims_table,
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
    assert len(list(RESULTS.rglob("results.json"))) == 11
