"""Before there is a drafter: what one must give to pay.

Catches a ratio that is turned round, a K of no speculation among the rows, and a drafter that is asked for after all.
"""

import json
from pathlib import Path

import pytest

from tests.benchmarks.tune.made_up import ORIGIN
from vllm_mtp.benchmarks.harness.method import NONE, OFF, mtp
from vllm_mtp.benchmarks.tune.costs import break_even, table
from vllm_mtp.cli import main

ROOT = Path(__file__).resolve().parents[3]


def test_a_drafter_pays_above_the_cost_of_a_round() -> None:
    seconds = {(NONE, size): {0: 0.1, 1: 0.2} for size in (1, 8)}
    seconds |= {(mtp(k, lookup=OFF), size): {0: 0.1 * cost, 1: 0.2 * cost} for k, size, cost in CASES}
    rows = break_even(seconds)
    found = [(row["num_speculative_tokens"], row["batch_size"], row["acceptance_length"]) for row in rows]
    assert found == sorted(CASES)
    assert rows[0]["acceptance_length_95"] == [1.25, 1.25]
    settings = {"temperature": 0.0, "dtype": "float32"}
    text = table(
        {"target": "small", "settings": settings, "origins": [ORIGIN], "break_even": rows, "draft_vocab_size": None}
    )
    assert "| k | 1 | 8 |" in text
    assert "| 1 | 1.25 (1.25-1.25) | 1.50 (1.50-1.50) |" in text
    assert "| 3 | 1.50 (1.50-1.50) | 2.50 (2.50-2.50) |" in text


CASES = [(3, 8, 2.5), (1, 1, 1.25), (1, 8, 1.5), (3, 1, 1.5)]


@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.extended
def test_without_a_drafter_on_real_engines(
    target_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["tune", str(target_dir), "--output", str(tmp_path / "out"), "--json", "--draft-vocab-size", "300"]
    command += ["--prompts", str(ROOT / "examples" / "stdlib" / "prompts.txt"), "--dtype", "float32", "--enforce-eager"]
    command += ["--spec-tokens", "1", "3", "--batch-size", "1", "2", "--for-batch-size", "1", "--max-tokens", "24"]
    command += ["--max-prompts", "4", "--turns", "2", "--seconds", "0.1"]
    assert main(command) == 0
    rows = json.loads(capsys.readouterr().out)["break_even"]
    assert [(row["num_speculative_tokens"], row["batch_size"]) for row in rows] == [(1, 1), (1, 2), (3, 1), (3, 2)]
    assert all(row["acceptance_length"] > 0.5 for row in rows)
    assert json.loads((tmp_path / "out" / "untrained" / "config.json").read_text())["draft_vocab_size"] == 300
    assert main(command) == 0, "nothing is measured again"
    assert json.loads(capsys.readouterr().out)["break_even"] == rows
