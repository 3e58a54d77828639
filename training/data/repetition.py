"""Outputs that end in a loop, as greedy output of a small model often does."""

from collections.abc import Sequence


def loop_window(max_tokens: int) -> int:
    """Length of the tail in which `ends_in_loop` looks: 64 tokens, or two thirds of a generation that is shorter."""
    return min(64, max(2, 2 * max_tokens // 3))


def ends_in_loop(token_ids: Sequence[int], *, window: int = 64, max_period: int | None = None) -> bool:
    """Whether the last `window` tokens repeat with a period of at most `max_period`, by default half the window.

    Greedy output of a small model often does, which flatters a drafter; figures are given without such outputs too.
    """
    tail = list(token_ids[-window:])
    periods = range(1, (window // 2 if max_period is None else max_period) + 1)
    return len(tail) == window and any(tail[period:] == tail[:-period] for period in periods)
