"""Ctrl-C, and the SIGTERM of a scheduler: they wait for the end of the step at hand, so that nothing of it is lost."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn

_ONE_SIGTERM_S = 10
"""Within which one that comes again is the same: from a supervisor to all processes, and from torchrun to its own.
Python hears of either when torch comes back to it."""


@dataclass(slots=True)
class Interrupt:
    """What came in the meantime."""

    number: int | None = None
    """The signal; None: nothing."""


@contextmanager
def interrupt_held_back() -> Iterator[Interrupt]:
    """Notes the first SIGINT or SIGTERM in place of what it does; a second one does it at once, if it is another one.

    A signal that is ignored, as a shell has it for a command in the background of a script, stays so. In another thread
    than the main one, which gets no signals, nothing is held back.
    """
    interrupt, came = Interrupt(), 0.0
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return

    def note(number: int, _: object) -> None:
        nonlocal came
        if interrupt.number is None:
            interrupt.number, came = number, time.monotonic()
        elif not number == interrupt.number == signal.SIGTERM or time.monotonic() - came > _ONE_SIGTERM_S:
            signal.signal(number, before[signal.Signals(number)])
            signal.raise_signal(number)

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    before = {number: handler for number, handler in handlers.items() if handler not in (signal.SIG_IGN, None)}
    for number in before:
        signal.signal(number, note)
    try:
        yield interrupt
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def leave(number: int) -> NoReturn:
    """Does what a signal would have done, and ends the program where that comes back.

    Raises:
        SystemExit: with the status that shells give such an end, unless the signal's handler ended it otherwise.
    """
    signal.raise_signal(number)
    raise SystemExit(128 + number)
