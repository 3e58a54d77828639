"""What an engine is asked for in a cell.

Catches: acceptance that is counted over a part of the prompts, a verification on prompts that were measured with, turns
of which one side alone meets a moment in which the machine is slow.
"""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vllm_mtp.benchmarks.harness.method import NONE, OFF, Method
from vllm_mtp.benchmarks.harness.rounds import Rounds, RoundsRequest
from vllm_mtp.benchmarks.harness.row_store import RowStore
from vllm_mtp.benchmarks.tune.cells import ACCEPTANCE, COST, VERIFICATION, Cell, Space
from vllm_mtp.benchmarks.tune.config import TuneConfig
from vllm_mtp.benchmarks.tune.measure import Meter, request_of

CONFIG = TuneConfig(batch_size=(1, 16), seconds=0.5)
SPACE = Space(config=CONFIG, lookups=[OFF])
CHOSEN = SPACE.method(3, OFF)


SETUP: Any = SimpleNamespace(config=CONFIG, measured=["measured"], held_out=["held out"], on_cpu=True)


def request(cell: Cell) -> RoundsRequest:
    return request_of(SETUP, cell)


def test_acceptance_is_counted_over_all_prompts() -> None:
    [cell] = [cell for cell in SPACE.cells() if cell.kind == ACCEPTANCE]
    [kept_apart] = SPACE.held_out({1: CHOSEN, 16: CHOSEN}, CHOSEN)
    for one, prompts in ((cell, "measured"), (kept_apart, "held out")):
        found = request(one)
        assert (found.max_seconds, found.repeat, found.keep, found.prompts) == (None, False, False, [prompts])


def test_what_is_verified_has_prompts_of_its_own_and_as_much_time_as_what_stands_beside_it() -> None:
    turns = {16: range(1)}
    for prompts, cells in (
        ("held out", SPACE.verification(CHOSEN, turns)),
        ("measured", SPACE.checks(CHOSEN, {16: CHOSEN}, turns)),
    ):
        for found in map(request, cells):
            assert (found.prompts[0], found.max_seconds) == (prompts, 0.25)


class Engine:
    """Notes when it is asked."""

    def __init__(self, asked: list[str], key: tuple[bool, Method]) -> None:
        self.asked, self.name = asked, "none" if key[1] == NONE else "mtp"

    def wait_until_ready(self) -> None:
        """At once."""

    def measure_rounds(self, request: RoundsRequest) -> Rounds:
        self.asked.append(self.name)
        return Rounds(seconds=[1.0], tokens=[request.seed], outputs=[])

    def close(self) -> None:
        """Nothing to end."""


def test_few_settings_are_timed_in_slices_and_many_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr("vllm_mtp.benchmarks.tune.measure._started", lambda setup, key: Engine(asked, key))
    store = RowStore(tmp_path, {kind: {} for kind in (COST, VERIFICATION)})
    with Meter(SETUP, store, {}) as meter:
        cells = SPACE.verification(CHOSEN, {1: range(2)})
        assert meter(cells, is_late=lambda: False)
        assert asked == ["none", "mtp", "mtp", "none"] * 2 + ["mtp", "none", "none", "mtp"] * 2, "slices of a second"
        seeds = [store.load(cell.name)["tokens"] for cell in cells]
        assert {len(some) for some in seeds} == {4}
        assert len({seed for some in seeds[::2] for seed in some}) == 8, "each draws numbers of its own"
        asked.clear()
        assert not meter(cells, is_late=lambda: False)
        assert not meter(SPACE.verification(CHOSEN, {16: range(2, 4)}), is_late=lambda: True)
        assert not asked
        meter([cell for cell in SPACE.cells() if cell.kind == COST and cell.turn == 0], is_late=lambda: True)
        assert len(asked) == 2 * (len(set(SPACE.methods)) + 2), "no speculation twice beside the settings"
        assert len(store.load(SPACE.cells()[1].name)["seconds"]) == 2
