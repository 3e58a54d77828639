"""A folder that one process at a time writes to.

Catches: two runs that write one folder, a killed process that keeps its folder for good, a lock on a deleted folder,
files and empty folders left behind.
"""

import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from vllm_mtp.common import claim
from vllm_mtp.common.claim import claimed

HOLD = """
import os, sys
from pathlib import Path
from vllm_mtp.common.claim import claimed
with claimed(Path(sys.argv[1]), "output", print):
    child = os.fork()
    if child == 0:
        sys.stdin.read()
        os._exit(0)
    print(child, flush=True)
    sys.stdin.read()
"""


def hold(folder: Path) -> tuple[subprocess.Popen[str], int]:
    """A process in the folder, and its child, which lives on."""
    command = [sys.executable, "-c", HOLD, str(folder)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def test_another_process_is_named_and_one_that_is_killed_lets_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claim, "_LONGEST_WAIT", 0.5)
    folder, said = tmp_path / "a" / "draft", []
    other, child = hold(folder)
    try:
        who = rf"(process {other.pid}|another process)"
        refused = pytest.raises(ValueError, match=rf"^output: {who} writes to .*draft: expected no other")
        with refused, claimed(folder, "output", said.append):
            pass
        assert len(said) == 1
        with claimed(tmp_path / "another", "output", pytest.fail):
            pass
        other.kill()
        other.wait()
        with claimed(folder, "output", pytest.fail):
            (folder / "file").write_text("kept")
    finally:
        other.kill()
        os.kill(child, signal.SIGKILL)
        other.communicate()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "draft", "file"]


def test_who_waited_for_a_folder_that_was_taken_away_is_alone_in_the_next(tmp_path: Path) -> None:
    """The lock that it got was of a file that no path leads to."""
    folder, said, inside = tmp_path / "draft", threading.Event(), []
    may_go = threading.Event()

    def second() -> None:
        with claimed(folder, "output", lambda _: said.set()):
            inside.append(folder.exists())
            may_go.wait(60)

    with claimed(folder, "output", pytest.fail):
        thread = threading.Thread(target=second)
        thread.start()
        assert said.wait(60)
    try:
        while not inside:
            thread.join(0.01)
        third = threading.Event()
        waiting = threading.Thread(
            target=lambda: claimed(folder, "output", lambda _: third.set()).__enter__(), daemon=True
        )
        waiting.start()
        assert third.wait(60)
    finally:
        may_go.set()
        thread.join()
        waiting.join()
    assert inside == [True]


def test_a_folder_that_was_deleted_is_not_locked_by_its_past(tmp_path: Path) -> None:
    folder = tmp_path / "draft"
    first, second = (claimed(folder, "output", pytest.fail) for _ in range(2))
    first.__enter__()
    shutil.rmtree(folder)
    with second:
        first.__exit__(None, None, None)
        assert (folder / ".lock").exists()
    assert not folder.exists()


def test_a_file_system_that_locks_only_what_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As NFS does."""
    flock, asked = fcntl.flock, []

    def of_nfs(descriptor: int, how: int) -> None:
        asked.append(fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE)
        if asked[-1] == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        flock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", of_nfs)
    monkeypatch.setattr(claim, "_LONGEST_WAIT", 0.0)
    with claimed(tmp_path / "draft", "output", pytest.fail):
        assert asked == [os.O_RDONLY, os.O_RDWR]
        with pytest.raises(ValueError, match=r"^output: "), claimed(tmp_path / "draft", "output", asked.append):
            pass
    assert [*tmp_path.iterdir()] == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_made_is_for_others_to_name(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with claimed(tmp_path / "draft", "output", pytest.fail):
        assert not (tmp_path / "draft").exists()
