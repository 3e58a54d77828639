"""Ctrl-C is noted once, and then does what it always did.

Catches: a run that cannot be ended by a second Ctrl-C, a handler that stays after training.
"""

import signal
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from vllm_mtp.training import interrupt
from vllm_mtp.training.interrupt import interrupt_held_back, leave


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_noted(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with interrupt_held_back() as found:
        assert found.number is None
        signal.raise_signal(number)
        assert found.number == number
    assert signal.getsignal(number) is before


def raised_while_held_back(*numbers: signal.Signals) -> None:
    with interrupt_held_back():
        for number in numbers:
            signal.raise_signal(number)


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_a_ctrl_c_behind_any_signal_interrupts(first: signal.Signals) -> None:
    with pytest.raises(KeyboardInterrupt):
        raised_while_held_back(first, signal.SIGINT)


@pytest.mark.parametrize(("seconds", "ends"), [(9.0, 0), (11.0, 1)])
def test_a_supervisor_s_sigterm_comes_twice(
    handled: None, monkeypatch: pytest.MonkeyPatch, seconds: float, ends: int
) -> None:
    """systemd ends all processes of a unit, of which torchrun ends its own once more."""
    times = iter((10.0, 10.0 + seconds))
    monkeypatch.setattr(interrupt, "time", SimpleNamespace(monotonic=lambda: next(times)))
    came: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
    with interrupt_held_back() as found:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
    assert found.number == signal.SIGTERM
    assert came == [signal.SIGTERM] * ends


@pytest.fixture
def handled() -> Iterator[None]:
    """A SIGTERM that is ignored, until the test's end."""
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGTERM, before)


def test_what_is_ignored_stays_ignored(handled: None) -> None:
    """Catches a run in the background of a script that ends by the Ctrl-C that its shell told it to ignore."""
    with interrupt_held_back() as found:
        signal.raise_signal(signal.SIGTERM)
    assert found.number is None
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN


@pytest.mark.parametrize("handler", [signal.SIG_IGN, lambda number, frame: None], ids=["ignored", "comes back"])
def test_leaving_ends_the_program_whatever_the_handler_does(handled: None, handler: Any) -> None:
    signal.signal(signal.SIGTERM, handler)
    with pytest.raises(SystemExit) as ended:
        leave(signal.SIGTERM)
    assert ended.value.code == 128 + signal.SIGTERM
