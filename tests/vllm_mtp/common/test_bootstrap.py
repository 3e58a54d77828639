"""Intervals over prompts or rows that are resampled."""

from vllm_mtp.common.bootstrap import ratio_interval


def test_interval_contains_the_mean_and_has_no_width_for_equal_prompts() -> None:
    low, high = ratio_interval([number % 2 for number in range(40)], [1] * 40)
    assert low < 0.5 < high
    assert high - low < 0.4
    assert ratio_interval([1] * 5, [1] * 5) == (1.0, 1.0)


def test_a_prompt_without_drafts_does_not_break_the_interval() -> None:
    assert ratio_interval([1.0, 0.0, 0.0], [1.0, 0.0, 0.0]) == (0.0, 1.0)
    assert ratio_interval([0.0, 0.0], [0.0, 0.0]) == (0.0, 0.0)
