"""Ctrl-C is noted once, and then does what it always did.

Catches: a run that cannot be ended by a second Ctrl-C, a handler that stays after training.
"""

import signal

import pytest

from vllm_mtp.training.interrupt import interrupt_held_back


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_noted(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with interrupt_held_back() as interrupt:
        assert interrupt.number is None
        signal.raise_signal(number)
        assert interrupt.number == number
    assert signal.getsignal(number) is before


def test_the_second_ctrl_c_interrupts() -> None:
    def press_twice() -> None:
        with interrupt_held_back():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        press_twice()
