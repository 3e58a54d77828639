"""Predicted beside measured, by hand."""

import pytest

from vllm_mtp.benchmarks.harness.method import NONE, mtp
from vllm_mtp.benchmarks.harness.rounds import Output, Rounds
from vllm_mtp.benchmarks.tune.choose import Choice
from vllm_mtp.benchmarks.tune.predict import Cost, TokensPerRound, predict
from vllm_mtp.benchmarks.tune.verify import verified

METHOD = mtp(3)
GAIN = TokensPerRound(mean=2.0, interval=(1.9, 2.1))


COUNTED = {3: Rounds(seconds=[], tokens=[], outputs=[Output(number=0, tokens=[4, 1] * 5)])}
"""By K: 2.5 tokens a round on the prompts that were kept apart."""


def rounds(seconds: float, tokens: int) -> Rounds:
    return Rounds(seconds=[seconds] * 10, tokens=[tokens] * 10, outputs=[])


def test_error_and_its_parts() -> None:
    one = predict(METHOD, 4, GAIN, Cost(seconds=0.3, ratio=1.0, ratio_95=(1.0, 1.0), num_turns=2))
    choice = Choice(method=METHOD, best=METHOD, by_batch_size={4: one})
    plain = {0: rounds(0.2, 4), 1: rounds(0.4, 4)}  # the machine was half as fast in turn 1
    drafted = {0: rounds(0.25, 6), 1: rounds(0.5, 6)}  # their outputs happen to be of poor prompts
    [row] = verified({(NONE, 4): plain, (METHOD, 4): drafted}, COUNTED, choice)
    assert row["measured_speedup"] == pytest.approx(2.0)
    assert row["measured_speedup_95"] == pytest.approx([2.0, 2.0])
    assert row["cost_95"] == [1.25, 1.25]
    assert row["relative_error"] == pytest.approx(0.0)
    assert (row["tokens_per_round"], row["cost"]) == (2.5, 1.25)
    assert (row["predicted_tokens_per_round"], row["predicted_cost"]) == (2.0, 1.0)
    assert row["tokens_per_second_without"] == pytest.approx(80 / 6, abs=0.01)


def test_a_turn_that_was_disturbed_is_in_the_throughput_alone() -> None:
    one = predict(METHOD, 1, GAIN, Cost(seconds=0.3, ratio=1.0, ratio_95=(1.0, 1.0), num_turns=2))
    choice = Choice(method=METHOD, best=METHOD, by_batch_size={1: one})
    plain = {turn: rounds(0.1, 1) for turn in range(5)}
    drafted = {turn: rounds(0.1 if turn else 0.9, 2) for turn in range(5)}
    [row] = verified({(NONE, 1): plain, (METHOD, 1): drafted}, COUNTED, choice)
    assert row["measured_speedup"] == pytest.approx(2.5)
    assert row["tokens_per_second"] == pytest.approx(100 / 13, abs=0.01)


def test_a_turn_that_only_one_side_has_is_left_out() -> None:
    one = predict(METHOD, 1, GAIN, Cost(seconds=0.3, ratio=1.0, ratio_95=(1.0, 1.0), num_turns=2))
    choice = Choice(method=METHOD, best=METHOD, by_batch_size={1: one})
    plain, drafted = {0: rounds(0.2, 1)}, {0: rounds(0.2, 2), 1: rounds(9, 2)}
    [row] = verified({(NONE, 1): plain, (METHOD, 1): drafted}, COUNTED, choice)
    assert (row["num_turns"], row["measured_speedup"]) == (1, 2.5)
    assert verified({(NONE, 1): plain}, COUNTED, choice) == []
