"""`vllm-mtp bench round` on real engines, as it is typed.

Catches: a vLLM whose scopes have other names, parts of the drafter that are not told, rows that are measured again.
"""

import json
from pathlib import Path

import pytest

from tests.drafts import config_for, write_random_draft
from vllm_mtp.benchmarks.rounds.trace import PARTS
from vllm_mtp.cli import main
from vllm_mtp.contract.checkpoint import write_lookup
from vllm_mtp.contract.lookup import Lookup

PROMPTS = Path(__file__).resolve().parents[3] / "examples" / "stdlib" / "prompts.txt"


def words(target: Path, draft: Path, output: Path) -> list[str]:
    found = ["bench", "round", str(target), "--draft", str(draft), "--output", str(output), "--prompts", str(PROMPTS)]
    return [*found, "--dtype", "float32", "--enforce-eager", "--num-prompts", "2", "--max-tokens", "12"]


@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.extended
def test_shares_and_going_on(target_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draft = write_random_draft(tmp_path / "draft", config_for(target_dir))
    write_lookup(draft, Lookup())
    command = words(target_dir, draft, tmp_path / "out")
    assert main(command) == 0
    none, mtp = json.loads((tmp_path / "out" / "results.json").read_text())["rows"]
    for row in (none, mtp):
        assert sum(row["shares"].values()) == pytest.approx(1, abs=1e-3)
        assert row["shares"]["target"] > 0.2
        assert row["shares"]["rest"] > 0
    # Two passes over two prompts: a round for each token but the first and, for want of a pass after it, the last.
    assert none["num_rounds"] == 2 * 2 * (12 - 2)
    of_drafter = ("module", "draft_head", "lookup", "proposer")
    assert all(none["shares"][part] == 0 < mtp["shares"][part] for part in of_drafter)
    assert set(mtp["shares"]) == set(PARTS)
    printed = capsys.readouterr().out
    assert main(command) == 0  # nothing is measured again: no engine is started
    assert capsys.readouterr().out == printed
    assert not (tmp_path / "out" / "traces").exists()


def test_too_few_prompts_are_refused(target_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draft = write_random_draft(tmp_path / "draft", config_for(target_dir))
    assert main([*words(target_dir, draft, tmp_path / "out"), "--batch-size", "1000"]) == 2
    assert "--prompts: expected at least 1000 that leave room in the context, got 24" in capsys.readouterr().err


def test_a_trace_that_memory_cannot_hold_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    command = words(tmp_path / "target", tmp_path / "draft", tmp_path / "out")
    assert main([*command, "--num-prompts", "48", "--max-tokens", "96", "--batch-size", "4", "8"]) == 2
    assert "--num-prompts: expected at most 1,000 passes to trace, got 1,152" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
