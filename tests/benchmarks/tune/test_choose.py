"""What is chosen, by hand.

Catches: noise that is taken for a gain, a schedule that drafts beyond the break-even or that vLLM refuses, a setting
of another lookup in a schedule.
"""

import random

import pytest

from vllm_mtp.benchmarks.harness.method import NONE, OFF, Method, mtp, schedule_of
from vllm_mtp.benchmarks.tune.choose import choose, contenders, schedule_from
from vllm_mtp.benchmarks.tune.predict import Prediction
from vllm_mtp.contract.lookup import Lookup

OWN = Lookup()


def prediction(speedup: float, k: int, batch_size: int = 1, lookup: Lookup | str = OWN) -> Prediction:
    return Prediction(
        method=mtp(k, lookup=lookup),
        batch_size=batch_size,
        tokens_per_round=speedup,
        tokens_per_round_95=(speedup, speedup),
        seconds_per_round=1.0,
        cost=1.0,
        cost_95=(1.0, 1.0),
        num_turns=2,
        tokens_per_second=speedup * batch_size,
        speedup=speedup,
        speedup_95=(speedup, speedup),
    )


def method_for(*some: Prediction, at: int = 1) -> Method:
    return choose(some, at, 0.03, OWN).method


def test_the_fastest_wins() -> None:
    assert method_for(prediction(1.5, 1), prediction(1.9, 3), prediction(1.7, 5)) == mtp(3, lookup=OWN)


def test_a_smaller_k_wins_where_it_is_as_fast() -> None:
    assert method_for(prediction(1.5, 1), prediction(1.88, 2), prediction(1.9, 3)) == mtp(2, lookup=OWN)


def test_a_simpler_setting_that_is_chosen_does_not_hide_that_the_best_one_pays() -> None:
    assert method_for(prediction(1.025, 1), prediction(1.055, 3)) == mtp(1, lookup=OWN)
    assert method_for(prediction(1.0, 1), prediction(1.02, 3)) == NONE


def test_what_is_known_comes_before_what_leads_by_luck() -> None:
    lucky, few, many = prediction(1.9, 5, lookup=OFF), prediction(1.7, 3), prediction(1.5, 3, 8)
    elsewhere = prediction(1.2, 1, 8)
    choice = choose([lucky, few, many, elsewhere], 1, 0.03, OWN, [few, elsewhere])
    assert choice.settings == {1: mtp(3, lookup=OWN), 8: mtp(3, lookup=OWN)}, "one that is known is no choice of many"
    assert choose([lucky, few, many], 1, 0.03, OWN).best == mtp(5, lookup=OFF)


def test_what_may_yet_be_chosen_stands_by_its_speed_behind_what_is() -> None:
    few = [prediction(1.88, 2), prediction(1.9, 3), prediction(1.95, 0), prediction(1.7, 1, lookup=OFF)]
    many = [prediction(1.3, k, 8) for k in (0, 2, 3)] + [prediction(1.4, 1, 8, lookup=OFF)]
    choice = choose(few + many, 1, 0.03, OWN)
    assert choice.settings == {1: mtp(2, lookup=OWN), 8: mtp(2, lookup=OWN)}
    assert contenders(few + many, choice, 1, 1) == [mtp(2, lookup=OWN), mtp(3, lookup=OWN), mtp(1, lookup=OFF)]
    assert contenders(few + many, choice, 1, 8) == [mtp(k, lookup=OWN) for k in (2, 0, 3)]


def test_the_drafters_own_lookup_wins_where_it_is_as_fast() -> None:
    other = Lookup(module_steps=1)
    assert method_for(prediction(1.88, 3), prediction(1.9, 1, lookup=other)) == mtp(3, lookup=OWN)
    assert method_for(prediction(1.5, 3), prediction(1.9, 3, lookup=OFF)) == mtp(3, lookup=OFF)
    without = choose([prediction(1.88, 3, lookup=OFF), prediction(1.9, 3)], 1, 0.03, None)
    assert without.method == mtp(3, lookup=OFF)


def test_what_gains_nothing_is_not_served() -> None:
    choice = choose([prediction(0.8, 1), prediction(1.02, 3)], 1, 0.03, OWN)
    assert (choice.method, choice.best) == (NONE, mtp(3, lookup=OWN))


def test_a_schedule_that_ends_at_the_break_even() -> None:
    speeds = {1: (0.95, 1.6, 2.0), 4: (0.96, 1.5, 1.4), 16: (0.97, 0.9, 0.6)}
    some = [prediction(speed, k, size) for size, of in speeds.items() for k, speed in zip((0, 1, 3), of, strict=True)]
    choice = choose(some, 1, 0.03, OWN)
    assert choice.method == mtp(3, lookup=OWN, schedule=((1, 2, 3), (3, 9, 1), (10, 16, 0)))
    assert {size: one.speedup for size, one in choice.by_batch_size.items()} == {1: 2.0, 4: 1.5, 16: 0.97}


def test_noise_makes_no_schedule() -> None:
    some = [prediction(2.0, 3, 1), prediction(1.6, 1, 1), prediction(1.5, 3, 4), prediction(1.53, 1, 4)]
    assert method_for(*some) == mtp(3, lookup=OWN)


def test_a_larger_batch_never_gets_a_larger_k() -> None:
    some = [prediction(speed, k, size) for size in (1, 2, 4) for k, speed in ((1, 1.5), (3, 1.2 + 0.4 * (size == 4)))]
    assert method_for(*some) == mtp(1, lookup=OWN)
    assert method_for(*some, at=4) == mtp(3, lookup=OWN)


def test_a_schedule_has_one_lookup() -> None:
    some = [prediction(2.0, 3, 1), prediction(1.1, 3, 8), prediction(1.5, 1, 8, OFF), prediction(1.0, 1, 1, OFF)]
    choice = choose(some, 1, 0.03, OWN)
    assert choice.method == mtp(3, lookup=OWN)
    assert choice.by_batch_size[8].speedup == 1.1


def test_schedules_are_what_vllm_takes() -> None:
    utils = pytest.importorskip("vllm.v1.spec_decode.dynamic.utils")
    chance = random.Random(0)
    for _ in range(30):
        k_of = {size: chance.randint(0, 5) for size in chance.sample(range(1, 40), 5)} | {40: 1}
        schedule = schedule_from(k_of)
        assert schedule == schedule_of([":".join(map(str, one)) for one in schedule])
        dense = utils.build_dynamic_sd_schedule_lookup(list(schedule), 64, 5)
        assert {size: dense[size] for size in k_of} == k_of
        assert dense[64] == 1
