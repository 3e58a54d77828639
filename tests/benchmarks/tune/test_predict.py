"""Predictions by hand, and what must hold of all of them.

Catches: rounds that are counted twice where a chain of accepted drafts is cut, a cost of the wrong turn, an interval
that leaves its value out.
"""

import random

import pytest

from vllm_mtp.benchmarks.harness.method import mtp
from vllm_mtp.benchmarks.harness.rounds import Output
from vllm_mtp.benchmarks.tune.predict import (
    Cost,
    TokensPerRound,
    cost_of,
    predict,
    rates_per_position,
    tokens_per_round,
    usual,
    width,
)


def outputs_of(*tokens: list[int]) -> list[Output]:
    return [Output(number=number, tokens=of_one) for number, of_one in enumerate(tokens)]


def greedy_rounds(runs: list[int], k: int) -> list[int]:
    """The rounds of a drafter that is right for so many tokens before each error, whatever the state it drafts from."""
    rounds = []
    for run in runs:
        rounds += [k + 1] * (run // (k + 1)) + [run % (k + 1)] * (run % (k + 1) > 0)
    return rounds


def test_by_hand() -> None:
    # k = 3: three accepted, then none; a rejection after one. So runs of 4 + 1 and of 2 tokens.
    [output] = outputs_of([4, 1, 2])
    assert tokens_per_round([output], 3, 3).mean == pytest.approx(7 / 3)
    assert tokens_per_round([output], 3, 2).mean == pytest.approx(7 / 3)  # 3 + 2, 2
    assert tokens_per_round([output], 3, 1).mean == pytest.approx(7 / 4)  # 2 + 2 + 1, 2
    assert tokens_per_round([output], 3, 0).mean == 1


def test_a_drafter_that_is_as_good_from_every_state_is_predicted_exactly() -> None:
    chance = random.Random(0)
    for _ in range(50):
        # A run ends with the target's own token, so that no round of the largest K is full at its end.
        runs = [[run for _ in range(9) if (run := chance.randint(1, 30)) % 6] for _ in range(4)]
        measured = outputs_of(*(greedy_rounds(of_output, 5) for of_output in runs))
        for k in range(6):
            rounds = [one for of_output in runs for one in greedy_rounds(of_output, k)]
            assert tokens_per_round(measured, 5, k).mean == pytest.approx(sum(rounds) / len(rounds))


def test_the_k_that_was_measured_is_its_own_prediction_and_more_never_give_less() -> None:
    chance = random.Random(1)
    measured = outputs_of(*([chance.randint(1, 6) for _ in range(20)] for _ in range(5)))
    rounds = [one for output in measured for one in output.tokens]
    gains = [tokens_per_round(measured, 5, k).mean for k in range(6)]
    assert gains[5] == pytest.approx(sum(rounds) / len(rounds))
    assert gains == sorted(gains)


def test_outputs_without_a_round_are_passed_over() -> None:
    assert tokens_per_round(outputs_of([], [3, 1]), 2, 2).mean == 2


def test_rates_per_position() -> None:
    assert rates_per_position(outputs_of([4, 1, 2], [3]), 3) == [3 / 4, 2 / 4, 1 / 4]


def test_costs_are_of_the_same_turn() -> None:
    # The machine was half as fast in turn 1.
    cost = cost_of({0: 2.0, 1: 4.2, 2: 1.8}, {0: 1.0, 1: 2.0, 2: 1.0})
    assert (cost.seconds, cost.ratio, cost.num_turns) == (2.0, 2.0, 3)
    assert 1.8 <= cost.ratio_95[0] <= 2.0 <= cost.ratio_95[1] <= 2.1


def test_a_turn_without_its_like_is_left_out() -> None:
    cost = cost_of({0: 2.0, 1: 9.0}, {0: 1.0})
    assert (cost.ratio, cost.num_turns) == (2.0, 1)


def test_how_far_an_interval_reaches() -> None:
    assert width(2.0, (1.9, 2.3)) == pytest.approx(0.15)
    assert width(2.0, (1.5, 2.1)) == pytest.approx(0.25)


def test_a_stall_does_not_count() -> None:
    assert usual([1.0, 1.0, 2.5, 2.0, 40.0]) == pytest.approx(6.5 / 4)


def test_speedup_and_its_interval() -> None:
    gain = TokensPerRound(mean=2.4, interval=(2.0, 3.0))
    one = predict(mtp(3), 4, gain, Cost(seconds=0.03, ratio=1.5, ratio_95=(1.5, 1.5), num_turns=4))
    assert one.speedup == pytest.approx(1.6)
    assert one.tokens_per_second == pytest.approx(4 * 2.4 / 0.03)
    assert one.speedup_95 == pytest.approx((2.0 / 1.5, 3.0 / 1.5))
    wider = predict(mtp(3), 4, gain, Cost(seconds=0.03, ratio=1.5, ratio_95=(1.4, 1.7), num_turns=4))
    assert wider.speedup_95[0] < one.speedup_95[0] < 1.6 < one.speedup_95[1] < wider.speedup_95[1]
