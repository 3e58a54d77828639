"""A folder that one process at a time writes to."""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vllm_mtp.common.errors import InputError

_LONGEST_WAIT = 60.0
"""Seconds: a process that was told to stop ends its step, and writes a checkpoint, before it goes."""


@contextmanager
def claimed(folder: Path, name: str, say: Callable[[str], None]) -> Iterator[None]:
    """Keeps other processes that ask for it out of a folder; who is killed keeps nobody out.

    Args:
        folder: made where it is not there, and taken away where nothing came into it.
        name: of the setting that names it.
        say: told once whom this process waits for.

    Raises:
        InputError: if another process is still in it after a minute.
    """
    try:
        is_new = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # said by whoever writes there
        yield
        return
    try:
        _wait(descriptor, folder, name, say)
        yield
    finally:
        os.close(descriptor)
        if is_new:
            with suppress(OSError):
                folder.rmdir()


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
        except OSError:  # a file system that has no locks
            return
        else:
            return


def _holder(descriptor: int) -> str:
    """Which process holds the lock of an open folder, where Linux says so."""
    inode = os.fstat(descriptor).st_ino
    with suppress(OSError):
        for line in Path("/proc/locks").read_text().splitlines():
            words = line.split()  # "1: FLOCK ADVISORY WRITE 4711 fe:00:131074 0 EOF"; a "->" before FLOCK waits
            if words[1] == "FLOCK" and words[5].rsplit(":", 1)[-1] == str(inode):
                return f"process {words[4]}"
    return "another process"
