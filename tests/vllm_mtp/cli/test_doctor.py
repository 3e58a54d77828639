"""`vllm-mtp doctor`: lines, JSON and exit status."""

import json
from pathlib import Path

import pytest

from tests.drafts import config_for, write_random_draft
from vllm_mtp.cli import main
from vllm_mtp.doctor import examine, report
from vllm_mtp.doctor.drafter import folder_keeps_the_contract
from vllm_mtp.doctor.target import target_is_read

# Those that need no vLLM.
CHECKS = (
    examine.Check(name="drafter", ask=folder_keeps_the_contract),
    examine.Check(name="target", ask=target_is_read),
)


def test_lines_json_and_exit_status(
    target_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches what is printed beside JSON, and a status that says nothing."""
    monkeypatch.setattr(examine, "CHECKS", CHECKS)
    draft = write_random_draft(tmp_path / "draft", config_for(target_dir))
    assert main(["doctor", str(target_dir), str(draft)]) == 0
    assert capsys.readouterr().out.splitlines()[0].split()[:3] == ["ok", "drafter", "15"]
    (draft / "model.safetensors").unlink()
    assert main(["doctor", str(target_dir), str(draft), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["status"] == "error"
    assert [(one["check"], one["status"]) for one in found["findings"]] == [("drafter", "error"), ("target", "ok")]
    assert report.examine is examine.examine


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--hf-overrides", "{"], "--hf-overrides: expected a JSON object, got {"),
        (["--tensor-parallel-size", "-1"], "expected at least 1"),
        (["--max-model-len", "-5"], "expected at least 1"),
    ],
)
def test_bad_usage(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "t", "d", *words]) == 2
    assert message in capsys.readouterr().err
