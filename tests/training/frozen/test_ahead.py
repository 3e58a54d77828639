"""Reading ahead: what was read is right, each once, and an error is not lost in a thread."""

import threading

import pytest

from vllm_mtp.training.frozen.ahead import Ahead


def test_what_is_read_ahead_is_not_read_again() -> None:
    read, threads = [], set()

    def square(index: int) -> int:
        read.append(index)
        threads.add(threading.current_thread())
        return index * index

    ahead = Ahead(square)
    ahead.start(3)
    assert [ahead(3), ahead(3)] == [9, 9]
    ahead.start(1)
    assert [ahead(3), ahead(1), ahead(3)] == [9, 1, 9]
    ahead.start(2)
    assert [ahead(2), ahead(1)] == [4, 1]
    assert read == [3, 1, 2]
    assert threading.current_thread() not in threads
    assert ahead(3) == 9, "the third last was given up"
    assert read == [3, 1, 2, 3]


def test_in_the_order_of_training_each_is_read_once() -> None:
    """Catches the next batch given up for the one at hand."""
    read: list[int] = []
    ahead = Ahead(read.append)
    for index in range(6):
        ahead.start(index)
        if index < 5:
            ahead.start(index + 1)
        for _ in range(2):  # parts of a batch
            ahead(index)
    assert read == list(range(6))


def test_what_is_kept_is_not_read_again() -> None:
    read: list[int] = []
    ahead = Ahead[str | None](read.append)
    assert ahead(3) is None
    ahead.keep(3, "made")
    assert [ahead(3), ahead(3)] == ["made", "made"]
    ahead.start(4)
    assert ahead(3) == "made"
    assert read == [3]
    assert ahead(4) is None


def test_what_it_raises_is_told_where_it_is_asked_for() -> None:
    def fails(index: int) -> int:
        raise OSError(f"no batch {index}")

    ahead = Ahead(fails)
    ahead.start(5)
    with pytest.raises(OSError, match="no batch 5"):
        ahead(5)
