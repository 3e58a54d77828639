"""Faults at random moments of a command, and what becomes of it (fault_commands.py has the commands).

Each command runs in a fork of this process, which has imported everything, so that hundreds of them take minutes. A
moment is a time, a file that is opened, renamed or deleted, an operation of torch, or a step of training; the fault at
it is real: SIGKILL, a file system of its own that is filled or becomes read-only, memory that cannot be had, NaN.
"""

import contextlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from tqdm import tqdm

_FILE_EVENTS = ("open", "os.rename", "os.remove", "os.mkdir")
_LONGEST = 300  # seconds


@contextlib.contextmanager
def files_of_at_most(num_bytes: int) -> Iterator[None]:
    """Writing fails in the middle of a larger file, as on a full disk, with another word of the system for it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# A disk of its own.


@dataclass(frozen=True, kw_only=True, slots=True)
class Disk:
    """A folder that can be filled up or made read-only."""

    folder: Path
    is_mounted: bool
    """A file system of its own in memory; otherwise a limit of file sizes and of access stands for one."""

    def fill(self) -> None:
        """Takes all that is free, for this process."""
        if not self.is_mounted:
            resource.setrlimit(resource.RLIMIT_FSIZE, (512, resource.RLIM_INFINITY))
            return
        with (self.folder / "ballast").open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(4096)):
                pass

    def make_read_only(self) -> None:
        if self.is_mounted:
            subprocess.run(["mount", "-o", "remount,ro", self.folder], check=True, capture_output=True)
        else:
            self._chmod(0o555)

    def repair(self) -> None:
        if self.is_mounted:
            subprocess.run(["mount", "-o", "remount,rw", self.folder], check=True, capture_output=True)
            (self.folder / "ballast").unlink(missing_ok=True)
        else:
            self._chmod(0o755)

    def _chmod(self, mode: int) -> None:
        for folder in (self.folder, *(path for path in self.folder.rglob("*") if path.is_dir())):
            folder.chmod(mode)


@contextlib.contextmanager
def disk_of_its_own() -> Iterator[Disk]:
    """A disk of 64 MiB, as far as this process may mount one."""
    with tempfile.TemporaryDirectory() as name:
        command = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", name]
        is_mounted = bool(shutil.which("mount")) and subprocess.run(command, capture_output=True).returncode == 0
        disk = Disk(folder=Path(name), is_mounted=is_mounted)
        try:
            yield disk
        finally:
            disk.repair()
            if is_mounted:
                subprocess.run(["umount", "--lazy", name], check=True)


# A command in a fork of this process.


@dataclass(kw_only=True, slots=True)
class Moments:
    """Counts moments in the command's own process, and calls the fault at one of them."""

    folder: Path
    """Where files count."""
    kind: str = ""
    number: int = 0
    """Of the moment of that kind, from 1; 0: none."""
    fault: Callable[[], object] = lambda: None
    counts: dict[str, int] = field(default_factory=lambda: {"file": 0, "operation": 0, "step": 0})
    is_on: bool = True

    def pass_one(self, kind: str) -> None:
        if not self.is_on:
            return
        self.counts[kind] += 1
        if kind == self.kind and self.counts[kind] == self.number:
            self.is_on = False  # what the fault itself does is no moment
            self.fault()

    def note_event(self, event: str, arguments: tuple[Any, ...]) -> None:
        """An audit hook of Python."""
        if event in _FILE_EVENTS and str(arguments[0]).startswith(str(self.folder)):
            self.pass_one("file")


class _Operations(TorchDispatchMode):
    def __init__(self, moments: Moments) -> None:
        super().__init__()
        self.moments = moments

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.moments.pass_one("operation")
        return func(*args, **(kwargs or {}))


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """How a command ended."""

    status: int
    """Exit status; minus the number of the signal that ended it."""
    error: str
    """Standard error."""
    seconds: float
    counts: dict[str, int]
    """Moments, where it came to an end by itself."""
    done: list[int]
    """Numbers of the steps or batches that it did."""

    @property
    def lines(self) -> list[str]:
        """What it said of itself."""
        return [line for line in self.error.replace("\r", "\n").splitlines() if line.startswith("vllm-mtp ")]


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """A command that can be killed and run again."""

    arguments: Callable[[Path], list[str]]
    """Its words, from the folder to work in."""
    prepare: Callable[[Callable[[int], None], Moments], None]
    """Called in its own process: reports each step or batch that is done, passes the moments that are steps."""
    result: Callable[[Path], Any]
    """What it made in the folder, to be compared."""
    interval: int
    """Steps or batches that may be lost."""


def run(command: Command, folder: Path, moments: Moments, kill_after: float | None = None) -> Ended:
    """Runs a command in a fork of this process."""
    reading, writing = os.pipe()
    with tempfile.TemporaryFile() as error, tempfile.TemporaryFile("w+") as counts:
        started = time.perf_counter()
        process = os.fork()
        if not process:
            os.close(reading)
            os._exit(_run_here(command, folder, moments, writing, error.fileno(), counts))
        os.close(writing)
        timer = threading.Timer(_LONGEST if kill_after is None else kill_after, os.kill, (process, signal.SIGKILL))
        timer.start()
        done = _read_all(reading)
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        timer.cancel()
        seconds = time.perf_counter() - started
        error.seek(0)
        counts.seek(0)
        return Ended(
            status=status,
            error=error.read().decode(errors="replace"),
            seconds=seconds,
            counts=json.loads(counts.read() or "{}"),
            done=[int(word) for word in done.split()],
        )


def _read_all(descriptor: int) -> str:
    with os.fdopen(descriptor) as file:
        return file.read()


def _run_here(command: Command, folder: Path, moments: Moments, done: int, error: int, counts: Any) -> int:
    """The fork: never returns to what it was forked from."""
    from vllm_mtp.cli import main

    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(error, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        torch.set_num_threads(1)
        tqdm.set_lock(threading.RLock())  # its own is shared between processes: one that is killed may hold it for ever
        command.prepare(lambda number: os.write(done, f"{number} ".encode()) and None, moments)
        sys.addaudithook(moments.note_event)
        with _Operations(moments) if moments.kind in ("", "operation") else contextlib.nullcontext():
            status = main(command.arguments(folder))
        moments.is_on = False
        counts.write(json.dumps(moments.counts))
        counts.flush()
        return status
    except BaseException:
        traceback.print_exc()
        return 70
    finally:
        sys.stderr.flush()


# A fault, and what becomes of the command.


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What became of a command with a fault, and of the same command run again."""

    was_felt: bool
    """It did not end as if nothing had been."""
    fault: str
    """What is not as it should be; empty: nothing."""
    num_lost: int
    """Steps or batches that were done a second time."""


def fault_of(name: str, disk: Disk) -> tuple[str, Callable[[], object]]:
    """The kind of moment at which a fault comes, and what it does."""
    return {
        "kill at a file": ("file", lambda: os.kill(os.getpid(), signal.SIGKILL)),
        "full disk": ("file", disk.fill),
        "read-only": ("file", disk.make_read_only),
        "out of memory": ("operation", lambda: torch.empty(2**50)),
        "NaN": ("step", lambda: None),
    }[name]


def try_one(
    command: Command, name: str, disk: Disk, undisturbed: Ended, expected: Any, chance: random.Random
) -> Outcome:
    """One fault at a random moment, and the same command after it."""
    folder = disk.folder / "work"
    moments = Moments(folder=folder)
    kill_after = None
    if name == "kill":
        kill_after = chance.uniform(0, undisturbed.seconds)
    else:
        moments.kind, moments.fault = fault_of(name, disk)
        moments.number = chance.randint(1, undisturbed.counts[moments.kind])
    first = run(command, folder, moments, kill_after)
    disk.repair()
    again = run(command, folder, Moments(folder=folder, kind="none"))
    found = command.result(folder) if again.status == 0 else None
    shutil.rmtree(folder, ignore_errors=True)
    num_lost = len(set(first.done) & set(again.done))
    return Outcome(
        was_felt=first.status != 0,
        fault=_fault(first, again, is_equal=found == expected, is_kill=name.startswith("kill"))
        or (f"{num_lost} lost" if num_lost > command.interval else ""),
        num_lost=num_lost,
    )


def _fault(first: Ended, again: Ended, *, is_equal: bool, is_kill: bool) -> str:
    if again.status:
        return f"the same command ends with {again.status}: {again.error[-2000:]}"
    if not is_equal:
        return "the result is another one"
    if first.status == 0 or (is_kill and first.status == -signal.SIGKILL):
        return ""
    if first.status != 2 or "Traceback" in first.error or len(first.lines) != 1:
        return f"it ends with {first.status}: {first.error[-2000:]}"
    return ""


def try_all(
    command: Command, names: tuple[str, ...], number: int, disk: Disk, seed: int = 0
) -> Iterator[dict[str, Any]]:
    """Figures of each fault, so many times each."""
    folder = disk.folder / "work"
    undisturbed = run(command, folder, Moments(folder=folder))
    assert undisturbed.status == 0, undisturbed.error
    expected = command.result(folder)
    shutil.rmtree(folder)
    for name in names:
        chance = random.Random(f"{name} {seed}")
        outcomes = [try_one(command, name, disk, undisturbed, expected, chance) for _ in range(number)]
        yield {
            "fault": name,
            "number": number,
            "num_felt": sum(one.was_felt for one in outcomes),
            "num_as_they_should_be": sum(not one.fault for one in outcomes),
            "most_lost": max(one.num_lost for one in outcomes),
            "interval": command.interval,
            "others": [one.fault for one in outcomes if one.fault],
        }
