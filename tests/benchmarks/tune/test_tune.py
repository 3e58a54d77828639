"""`vllm-mtp tune` on real engines, as it is typed.

Catches: an engine that vLLM refuses, a setting that is not predicted, rows that are measured again, a line of
`vllm serve` whose config the verification did not run.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from vllm_mtp.cli import main

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.extended
def test_choice_verification_and_going_on(
    target_dir: Path, draft_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["tune", str(target_dir), str(draft_dir), "--output", str(tmp_path / "out"), "--json"]
    command += ["--prompts", str(ROOT / "examples" / "stdlib" / "prompts.txt"), "--dtype", "float32", "--enforce-eager"]
    command += ["--spec-tokens", "1", "3", "--module-steps", "1", "--batch-size", "1", "4", "--max-tokens", "24"]
    command += ["--max-prompts", "12", "--turns", "2", "--most-turns", "4", "--seconds", "0.1"]
    assert main(command) == 0
    printed = json.loads(capsys.readouterr().out)
    assert list(printed["predicted_speedup"]) == list(printed["measured_speedup"]) == ["1", "4"]
    assert all(speedup > 0 for speedup in printed["measured_speedup"].values())
    result: dict[str, Any] = json.loads((tmp_path / "out" / "results.json").read_text())
    assert len(result["predictions"]) == 2 * (3 + 2 * 3), "sizes, K of 0, 1 and 3, without lookup and with two kinds"
    assert printed["config"] == result["choice"]["config"]
    assert all(2 <= row["num_turns"] <= 4 for row in [*result["verification"], *result["predictions"]])
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "rows").iterdir()}
    assert main(command) == 0  # nothing is measured again: no engine is started
    assert json.loads(capsys.readouterr().out) == printed
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "rows").iterdir()}
