"""What the next step takes, read in a thread while this step is computed."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class Ahead(Generic[T]):
    """Reads by index; the two that were begun last are kept. Of what is mapped from a file, pages come when used.

    Args:
        read: called in a thread of its own, one after another.
        begin: called in that thread once, before all else.
    """

    def __init__(self, read: Callable[[int], T], begin: Callable[[], None] | None = None) -> None:
        self._read = read
        self._thread = ThreadPoolExecutor(1, "reading ahead", initializer=begin)
        self._found: dict[int, Future[T]] = {}

    def start(self, index: int) -> None:
        """Begins to read, where that is not done yet."""
        if index not in self._found:
            self._found = dict([*self._found.items()][-1:])
            self._found[index] = self._thread.submit(self._read, index)

    def keep(self, index: int, found: T) -> None:
        """Takes the place of what was read."""
        self._found[index] = Future()
        self._found[index].set_result(found)

    def __call__(self, index: int) -> T:
        """What was read, waited for.

        Raises:
            Exception: whatever reading it raised.
        """
        self.start(index)
        return self._found[index].result()
