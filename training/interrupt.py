"""Ctrl-C, and the SIGTERM of a scheduler: they wait for the end of the step at hand, so that nothing of it is lost."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(slots=True)
class Interrupt:
    """What came in the meantime."""

    number: int | None = None
    """The signal; None: nothing."""


@contextmanager
def interrupt_held_back() -> Iterator[Interrupt]:
    """Notes the first SIGINT or SIGTERM in place of what it does; a second one does it at once.

    In another thread than the main one, which gets no signals, nothing is held back.
    """
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return

    def note(number: int, _: object) -> None:
        interrupt.number = number
        signal.signal(number, before[signal.Signals(number)])

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, note)
    try:
        yield interrupt
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
