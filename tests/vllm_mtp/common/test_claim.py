"""A folder that one process at a time writes to.

Catches: two runs that write one folder, a killed process that keeps its folder for good, empty folders left behind.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vllm_mtp.common import claim
from vllm_mtp.common.claim import claimed

HOLD = """
import sys
from pathlib import Path
from vllm_mtp.common.claim import claimed
with claimed(Path(sys.argv[1]), "output", print):
    print("in", flush=True)
    sys.stdin.read()
"""


def test_another_process_is_named_and_one_that_is_killed_lets_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claim, "_LONGEST_WAIT", 0.5)
    folder, said = tmp_path / "a" / "draft", []
    command = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "in\n"
        refused = pytest.raises(ValueError, match=rf"^output: process {other.pid} writes to .*draft: expected no other")
        with refused, claimed(folder, "output", said.append):
            pass
        assert [line.split(" writes")[0] for line in said] == [f"process {other.pid}"]
        with claimed(tmp_path / "another", "output", said.append):
            pass
        other.kill()
        other.wait()
        with claimed(folder, "output", said.append):
            (folder / "file").write_text("kept")
    assert len(said) == 1
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "draft", "file"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_made_is_for_others_to_name(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with claimed(tmp_path / "draft", "output", pytest.fail):
        assert not (tmp_path / "draft").exists()
