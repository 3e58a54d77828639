"""Acceptance arithmetic, in vLLM's conventions."""

import pytest

from vllm_mtp.benchmarks.harness.acceptance import Acceptance, total
from vllm_mtp.training.data.repetition import before_loop, ends_in_loop, loop_window


def test_counts_of_rounds_by_hand() -> None:
    """Three rounds of 3 draft tokens with 3, 1, 0 accepted, and one round without drafts that must not count."""
    counts = Acceptance.of_rounds([(3, 3), (3, 1), (3, 0), (0, 0)], num_speculative_tokens=3)
    assert counts == Acceptance(num_drafts=3, num_draft_tokens=9, num_accepted_tokens_per_position=(2, 1, 1))
    assert counts.acceptance_length == pytest.approx(1 + 4 / 3)
    assert counts.acceptance_rate == pytest.approx(4 / 9)
    assert counts.acceptance_rate_per_position == pytest.approx([2 / 3, 1 / 3, 1 / 3])


def test_conditional_rates() -> None:
    """Of the drafts that came as far as the position before; nothing came to the last one."""
    counts = Acceptance(num_drafts=8, num_draft_tokens=32, num_accepted_tokens_per_position=(4, 3, 0, 0))
    assert counts.conditional_acceptance_rate_per_position == [0.5, 0.75, 0.0, None]
    nothing = Acceptance(num_drafts=0, num_draft_tokens=0, num_accepted_tokens_per_position=())
    assert nothing.conditional_acceptance_rate_per_position == []


def test_no_drafts_is_length_one() -> None:
    nothing = Acceptance.of_rounds([], num_speculative_tokens=2)
    assert (nothing.acceptance_length, nothing.acceptance_rate) == (1.0, 0.0)
    assert nothing.acceptance_rate_per_position == [0.0, 0.0]


def test_impossible_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="accepted only after all before it"):
        Acceptance(num_drafts=2, num_draft_tokens=4, num_accepted_tokens_per_position=(1, 2))


def test_total_weighs_by_drafts() -> None:
    short = Acceptance.of_rounds([(1, 1)], num_speculative_tokens=1)
    long = Acceptance.of_rounds([(1, 0)] * 3, num_speculative_tokens=1)
    assert total([short, long]).acceptance_length == pytest.approx(1.25)
    with pytest.raises(ValueError, match="at least one prompt"):
        total([])


def test_the_window_for_loops_fits_into_short_outputs() -> None:
    assert [loop_window(n) for n in (1, 48, 96, 512)] == [2, 32, 64, 64]
    assert ends_in_loop([0, *[1, 2] * 16], window=32)
    assert not ends_in_loop([*range(17)] * 2, window=32), "a period of 17 is not seen twice in 32 tokens"


@pytest.mark.parametrize(
    ("tokens", "loops"),
    [
        ([1, 2, 3] * 30, True),
        ([*range(100), *[7, 8] * 32], True),
        (list(range(100)), False),
        ([1, 2] * 10, False),  # shorter than the window
        ([*[5] * 63, 6], False),  # the loop was left
    ],
)
def test_loops(tokens: list[int], loops: bool) -> None:
    assert ends_in_loop(tokens) is loops
    assert (len(before_loop(tokens)) < len(tokens)) is loops


@pytest.mark.parametrize(
    ("tokens", "kept"),
    [
        ([9, 9, *[1, 2, 3] * 40], [9, 9, 1, 2, 3]),
        ([3, 9, *[1, 2, 3] * 40, 1], [3, 9, 1, 2, 3]),
        ([9, 2, 3, *[1, 2, 3] * 40], [9, 2, 3, 1]),
        ([1, 2, 3] * 40, []),
        ([*range(100)], [*range(100)]),
    ],
)
def test_what_is_before_a_loop(tokens: list[int], kept: list[int]) -> None:
    assert list(before_loop(tokens)) == kept
