"""Outputs that end in a loop, as greedy output of a small model often does."""

from collections.abc import Sequence


def loop_window(max_tokens: int) -> int:
    """Length of the tail in which `ends_in_loop` looks: 64 tokens, or two thirds of a generation that is shorter."""
    return min(64, max(2, 2 * max_tokens // 3))


def ends_in_loop(token_ids: Sequence[int], *, window: int = 64, max_period: int | None = None) -> bool:
    """Whether the last `window` tokens repeat with a period of at most `max_period`, by default half the window.

    Greedy output of a small model often does, which flatters a drafter; figures are given without such outputs too.
    """
    return _period(token_ids, window, max_period) is not None


def before_loop(token_ids: Sequence[int], *, window: int = 64) -> Sequence[int]:
    """An output up to where its loop begins to repeat itself; whole where it does not end in one, empty where it is
    nothing else."""
    period = _period(token_ids, window, None)
    if period is None:
        return token_ids
    start = len(token_ids) - window
    while start > 0 and token_ids[start - 1] == token_ids[start - 1 + period]:
        start -= 1
    return token_ids[: start + period] if start else token_ids[:0]


def _period(token_ids: Sequence[int], window: int, max_period: int | None) -> int | None:
    """The least period of the last `window` tokens."""
    tail = list(token_ids[-window:])
    if len(tail) < window:
        return None
    periods = range(1, (window // 2 if max_period is None else max_period) + 1)
    return next((period for period in periods if tail[period:] == tail[:-period]), None)
