"""What is measured: every setting once, with few engines."""

from dataclasses import replace

from vllm_mtp.benchmarks.harness.method import NONE, OFF
from vllm_mtp.benchmarks.tune.cells import ACCEPTANCE, COST, Space, some_of_each_first
from vllm_mtp.benchmarks.tune.config import TuneConfig
from vllm_mtp.contract.lookup import Lookup

STEPS = [Lookup(module_steps=number) for number in (1, 2, 3)]
SPACE = Space(config=TuneConfig(num_speculative_tokens=(1, 3, 5), batch_size=(1, 8), turns=2), lookups=[*STEPS, OFF])


def test_no_row_has_the_name_of_another() -> None:
    chosen, turns = SPACE.method(3, STEPS[2]), SPACE.first_turns
    settings = dict.fromkeys(turns, chosen)
    cells = {*SPACE.cells(), *SPACE.again({1: [chosen]}, {1: range(2, 4)}), *SPACE.verification(chosen, turns)}
    cells |= {*SPACE.held_out(settings, chosen), *SPACE.checks(chosen, settings, turns)}
    assert len({cell.name for cell in cells}) == len(cells)


def test_no_speculation_is_never_far_from_what_is_compared_with_it() -> None:
    [turn] = [[cell.method for cell in SPACE.cells() if (cell.kind, cell.batch_size, cell.turn) == (COST, 8, 1)]]
    places = [place for place, method in enumerate(turn) if method == NONE]
    assert len(places) == 4
    assert all(min(abs(place - one) for one in places) <= 2 for place in range(len(turn)))


def test_three_engines_measure_everything_and_every_setting_is_predicted() -> None:
    cells = SPACE.cells()
    assert len({cell.engine for cell in cells}) == 3
    assert all(one.engine.lookup == OFF for one in cells if one.method.lookup == OFF)
    timed = {(cell.method, cell.batch_size, cell.turn) for cell in cells if cell.kind == COST}
    counted = {cell.method for cell in cells if cell.kind == ACCEPTANCE}
    for method in SPACE.methods:
        assert SPACE.acceptance_of(method.lookup) in counted
        for size in (1, 8):
            for turn in (0, 1):
                assert {(NONE, size, turn), (SPACE.measured_as(method), size, turn)} <= timed


def test_steps_beyond_k_are_not_measured_again() -> None:
    assert SPACE.measured_as(SPACE.method(1, STEPS[2])) == SPACE.method(1, STEPS[0])
    assert SPACE.measured_as(SPACE.method(0, STEPS[1])) == SPACE.method(0, STEPS[0])
    assert SPACE.measured_as(SPACE.method(3, STEPS[2])) == SPACE.method(3, STEPS[2])
    assert SPACE.measured_as(SPACE.method(1, OFF)) == SPACE.method(1, OFF)
    num_drafted = sum(cell.kind == COST and cell.method != NONE for cell in SPACE.cells())
    assert num_drafted == 2 * 2 * ((1 + 1 + 3 + 3) + 4)  # turns, sizes, by k with lookup, without


def test_an_engines_schedule_has_every_k() -> None:
    engine = SPACE.engine_of(SPACE.method(1, OFF))
    assert engine.schedule == ((1, 1, 0), (2, 2, 1), (3, 3, 3), (4, 4, 5))
    assert engine.num_speculative_tokens == 5


def test_the_verification_has_engines_of_its_own() -> None:
    chosen = SPACE.method(3, OFF)
    cells = SPACE.verification(chosen, SPACE.first_turns)
    assert all(cell.engine == cell.method for cell in cells)
    assert [cell.method for cell in cells] == [NONE, chosen, chosen, NONE] * 2


def test_every_k_of_a_schedule_is_counted_at_its_largest_batch_size() -> None:
    few, many, none = (SPACE.method(k, STEPS[2]) for k in (3, 1, 0))
    chosen = replace(few, schedule=((1, 5, 3), (6, 16, 1), (17, 17, 0)))
    cells = SPACE.held_out({1: few, 4: few, 8: many, 16: many, 32: none}, chosen)
    assert [(cell.batch_size, cell.method) for cell in cells] == [(4, few), (16, many)]
    assert all(cell.engine == chosen for cell in cells)


def test_a_check_is_timed_as_it_was_predicted() -> None:
    chosen = SPACE.method(1, STEPS[2])
    cells = SPACE.checks(chosen, dict.fromkeys(SPACE.first_turns, chosen), SPACE.first_turns)
    assert {cell.engine for cell in cells} <= {cell.engine for cell in SPACE.cells()}
    assert {cell.method for cell in cells} == {SPACE.measured_as(chosen)}
    assert not {cell.name for cell in cells} & {cell.name for cell in SPACE.cells()}


def test_what_leads_has_further_turns_beside_no_speculation_until_there_are_most() -> None:
    space = replace(SPACE, config=replace(SPACE.config, turns=2, most_turns=5))
    assert space.further_turns({1: 2, 8: 4}) == {1: range(2, 4), 8: range(4, 5)}
    assert not any(space.further_turns({1: 5}).values())
    leading = space.method(1, STEPS[2])
    cells = space.again({8: [leading, space.method(1, STEPS[0])]}, {8: range(2, 4)})
    as_measured = space.method(1, STEPS[0])
    assert [(cell.method, cell.turn) for cell in cells] == [(NONE, 2), (as_measured, 2), (as_measured, 3), (NONE, 3)]
    assert some_of_each_first({1: range(2, 6), 8: range(4)}) == [
        *((8, 0), (8, 1), (1, 2), (1, 3), (8, 2), (8, 3), (1, 4), (1, 5))
    ]
    assert {cell.batch_size for cell in cells} == {8}
    assert {cell.engine for cell in cells} <= {cell.engine for cell in space.cells()}, "no engine is started for it"
