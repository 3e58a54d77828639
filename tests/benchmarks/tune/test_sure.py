"""What is measured again, with made-up rounds in place of engines.

Catches: a leader by luck that is not found out, turns that go on for ever, a run that was killed and starts anew.
"""

import random
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from vllm_mtp.benchmarks.harness.method import NONE, OFF, Method
from vllm_mtp.benchmarks.harness.rounds import Output, Rounds
from vllm_mtp.benchmarks.harness.row_store import RowStore
from vllm_mtp.benchmarks.tune.cells import ACCEPTANCE, CHECK, COST, HELD_OUT, VERIFICATION, Cell, Space
from vllm_mtp.benchmarks.tune.config import TuneConfig
from vllm_mtp.benchmarks.tune.result import verification_of
from vllm_mtp.benchmarks.tune.sure import choose_by, verify_by

CONFIG = TuneConfig(num_speculative_tokens=(1, 3), batch_size=(1, 4), turns=4, most_turns=16, tolerance=0)
SECONDS = {0: 1.0, 1: 1.1, 2: 1.2, 3: 1.3, 5: 1.3, 6: 1.3}


class Machine:
    """Rounds whose seconds are off by `noise`; in its first turns K = 1 is fast by luck; drafting slows down later."""

    def __init__(self, store: RowStore, noise: float, luck: float = 1.0, later: float = 1.0, most: int = 10**6) -> None:
        self.store, self.noise, self.luck, self.later, self.most = store, noise, luck, later, most
        self.measured: list[Cell] = []

    def __call__(self, cells: Sequence[Cell]) -> bool:
        new = dict.fromkeys(cell for cell in cells if cell.name not in self.store)
        todo = list(new)[: self.most - len(self.measured)]
        for cell in todo:
            self.store.save(cell.name, cell.kind, cell.about() | asdict(self.rounds(cell)))
        self.measured += todo
        return bool(todo)

    def rounds(self, cell: Cell) -> Rounds:
        drawn, k = random.Random(cell.name), cell.method.num_speculative_tokens
        lucky = cell.kind == COST and k == 1 and cell.turn < CONFIG.turns // 2
        seconds = SECONDS[k] * (1 + self.noise * drawn.uniform(-1, 1)) * (self.luck if lucky else 1)
        if k and cell.kind in (CHECK, VERIFICATION):
            seconds *= self.later
        is_counted = cell.kind in (ACCEPTANCE, HELD_OUT)
        outputs = [Output(number=number, tokens=[3] * 8) for number in range(4)] if is_counted else []
        return Rounds(seconds=[seconds] * 5, tokens=[min(3, 1 + k) * cell.batch_size] * 5, outputs=outputs)


def store_in(folder: Path) -> RowStore:
    return RowStore(folder, {kind: {} for kind in (ACCEPTANCE, COST, VERIFICATION, HELD_OUT, CHECK)})


def turns_of(machine: Machine, kind: str, method: Method, batch_size: int = 1) -> int:
    found = [
        cell.turn
        for cell in machine.measured
        if (cell.kind, cell.method, cell.batch_size) == (kind, method, batch_size)
    ]
    assert len(set(found)) == len(found)
    return len(found)


def test_what_led_by_luck_is_found_out(tmp_path: Path) -> None:
    space = Space(config=CONFIG, lookups=[OFF])
    machine = Machine(store_in(tmp_path), noise=0.3, luck=0.7)
    _, choice = choose_by(machine, space, machine.store, None)
    assert choice.best.num_speculative_tokens == 3
    lucky, best = space.method(1, OFF), space.method(3, OFF)
    assert turns_of(machine, COST, lucky) > CONFIG.turns, "it led"
    assert turns_of(machine, COST, best) > CONFIG.turns
    assert turns_of(machine, COST, space.method(0, OFF)) == CONFIG.turns // 2, "it never led"
    alone = {(cell.turn, cell.method) for cell in machine.measured if cell.batch_size == 1 and cell.in_slices}
    assert {(turn, NONE) for turn, _ in alone} <= alone, "each further turn has no speculation in it"
    assert {(turn, lucky) for turn, _ in alone} <= alone, "and what leads, beside what comes next"
    assert {(turn, best) for turn, _ in alone} <= alone


def test_minutes_that_end_leave_what_is_known(tmp_path: Path) -> None:
    """What comes next is then lucky, in its first turns, which are all that there are of it."""
    space = Space(config=replace(CONFIG, num_speculative_tokens=(1, 2, 3, 5, 6)), lookups=[OFF])
    machine = Machine(store_in(tmp_path), noise=0.3, luck=0.7)
    num_first = len(dict.fromkeys(space.cells()))
    machine.most = num_first + CONFIG.turns * 4
    predicted, choice = choose_by(machine, space, machine.store, None)
    at_one = choice.by_batch_size[1]
    assert at_one.num_turns >= CONFIG.turns
    assert any(one.batch_size == 1 and one.num_turns < CONFIG.turns for one in predicted)


def test_a_quiet_machine_is_measured_once(tmp_path: Path) -> None:
    space = Space(config=CONFIG, lookups=[OFF])
    machine = Machine(store_in(tmp_path), noise=0.01)
    _, choice = choose_by(machine, space, machine.store, None)
    verify_by(machine, space, machine.store, choice, with_checks=True)
    assert turns_of(machine, COST, choice.best) == CONFIG.turns // 2 + CONFIG.turns
    assert {cell.turn for cell in machine.measured if cell.kind == VERIFICATION} == set(range(CONFIG.turns))


def test_a_machine_that_never_is_sure_has_most_turns(tmp_path: Path) -> None:
    space = Space(config=CONFIG, lookups=[OFF])
    machine = Machine(store_in(tmp_path), noise=0.9)
    _, choice = choose_by(machine, space, machine.store, None)
    verify_by(machine, space, machine.store, choice, with_checks=True)
    rows = verification_of(space, machine.store, choice)
    assert [row["num_turns"] for row in rows] == [CONFIG.most_turns] * 2


@pytest.mark.parametrize("with_checks", [True, False])
def test_an_hour_in_which_drafting_costs_more_is_no_error_of_the_prediction(tmp_path: Path, with_checks: bool) -> None:
    space = Space(config=CONFIG, lookups=[OFF])
    machine = Machine(store_in(tmp_path), noise=0.01, later=1.25)
    _, choice = choose_by(machine, space, machine.store, None)
    choice = verify_by(machine, space, machine.store, choice, with_checks=with_checks)
    errors = [row["relative_error"] for row in verification_of(space, machine.store, choice)]
    assert errors == pytest.approx([0.0 if with_checks else 0.25] * 2, abs=0.05)


def test_a_killed_run_goes_on(tmp_path: Path) -> None:
    space = Space(config=CONFIG, lookups=[OFF])
    names: list[str] = []
    for _ in range(6):
        machine = Machine(store_in(tmp_path), noise=0.2, most=80)
        _, choice = choose_by(machine, space, machine.store, None)
        if len(machine.measured) < machine.most:
            verify_by(machine, space, machine.store, choice, with_checks=True)
        names += [cell.name for cell in machine.measured]
    assert not machine.measured, "it has ended"
    assert len(names) == len(set(names)), "nothing is measured again"
    assert min(one.num_turns for one in choice.by_batch_size.values()) > CONFIG.turns
