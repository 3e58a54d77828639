"""A folder that one process at a time writes to."""

import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vllm_mtp.common.errors import InputError

_LOCK_FILE = ".lock"
_LONGEST_WAIT = 60.0
"""Seconds: a process that was told to stop ends its step, and writes a checkpoint, before it goes."""
_held: set[int] = set()


@contextmanager
def claimed(folder: Path, name: str, say: Callable[[str], None]) -> Iterator[None]:
    """Keeps other processes that ask for it out of a folder; who is killed keeps nobody out.

    The lock is one of the file system's on a file in the folder, so that it counts on other machines too where that
    shares locks, as NFS does.

    Args:
        folder: made where it is not there, and taken away where nothing came into it.
        name: of the setting that names it.
        say: told once whom this process waits for.

    Raises:
        InputError: if another process is still in it after a minute.
    """
    is_new = not folder.exists()
    try:
        descriptor = _locked(folder, name, say)
    except OSError:  # said by whoever writes there
        yield
        return
    _held.add(descriptor)
    try:
        yield
    finally:
        with suppress(OSError):
            if _is_at(descriptor, folder / _LOCK_FILE):
                (folder / _LOCK_FILE).unlink()
                if is_new:
                    folder.rmdir()
        _held.discard(descriptor)
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def _locked(folder: Path, name: str, say: Callable[[str], None]) -> int:
    """The open lock file of a folder, locked.

    Raises:
        OSError: where no file can be written.
    """
    flags = os.O_RDONLY  # a file that is open for writing keeps its disk from being mounted read-only
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / _LOCK_FILE
        descriptor = os.open(path, flags | os.O_CREAT, 0o644)
        try:
            _wait(descriptor, folder, name, say)
            if _is_at(descriptor, path):
                return descriptor
        except BaseException as error:
            os.close(descriptor)
            if flags == os.O_RDWR or getattr(error, "errno", None) != errno.EBADF:
                raise
            flags = os.O_RDWR  # NFS locks nothing else
        else:
            os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether a path leads to an open file: not once its holder took it along, or somebody deleted the folder."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _wait(descriptor: int, folder: Path, name: str, say: Callable[[str], None]) -> None:
    began, is_said = time.monotonic(), False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            who = _holder(descriptor)
            if time.monotonic() - began > _LONGEST_WAIT:
                raise InputError(
                    name,
                    f"{who} writes to {folder}: expected no other. Wait for it, or stop it (kill), and give the same "
                    "command again; or give another folder.",
                ) from error
            if not is_said:
                say(f"{who} writes to {folder}: waiting until it goes")
            is_said = True
            time.sleep(0.5)
        except OSError as error:
            if error.errno == errno.EBADF:
                raise
            return  # a file system that has no locks
        else:
            return


def _holder(descriptor: int) -> str:
    """Which process holds the lock of an open file, where Linux says so."""
    found = os.fstat(descriptor)
    file = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    with suppress(OSError):
        for line in Path("/proc/locks").read_text().splitlines():
            words = line.split()  # "1: FLOCK ADVISORY WRITE 4711 fe:00:131074 0 EOF"; a "->" before FLOCK waits
            if words[1] == "FLOCK" and words[5] == file and Path(f"/proc/{words[4]}").exists():
                return f"process {words[4]}"
    return "another process"


def _let_go() -> None:
    """A forked child holds nothing, and outlives whoever does."""
    for descriptor in _held:
        with suppress(OSError):
            os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)
