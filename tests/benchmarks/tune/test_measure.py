"""What an engine is asked for in a cell.

Catches: acceptance that is counted over a part of the prompts, a verification on prompts that were measured with.
"""

from types import SimpleNamespace
from typing import Any

from vllm_mtp.benchmarks.harness.method import NONE, OFF
from vllm_mtp.benchmarks.harness.rounds import RoundsRequest
from vllm_mtp.benchmarks.tune.cells import ACCEPTANCE, Cell, Space
from vllm_mtp.benchmarks.tune.config import TuneConfig
from vllm_mtp.benchmarks.tune.measure import request_of

CONFIG = TuneConfig(batch_size=(1, 16), seconds=0.5)
SPACE = Space(config=CONFIG, lookups=[OFF])
CHOSEN = SPACE.method(3, OFF)


def request(cell: Cell) -> RoundsRequest:
    setup: Any = SimpleNamespace(config=CONFIG, measured=["measured"], held_out=["held out"], on_cpu=True)
    return request_of(setup, cell)


def test_acceptance_is_counted_over_all_prompts() -> None:
    [cell] = [cell for cell in SPACE.cells() if cell.kind == ACCEPTANCE]
    found = request(cell)
    assert (found.max_outputs, found.max_seconds, found.repeat, found.prompts) == (None, None, False, ["measured"])


def test_what_is_verified_has_whole_outputs_and_what_stands_beside_it_some_time() -> None:
    turns = {16: range(1)}
    verified = {cell.method: request(cell) for cell in SPACE.verification(CHOSEN, turns)}
    assert {found.prompts[0] for found in verified.values()} == {"held out"}
    assert (verified[CHOSEN].max_outputs, verified[CHOSEN].max_seconds) == (8, None)
    assert (verified[NONE].max_outputs, verified[NONE].max_seconds) == (None, 2.0)
    checks = [request(cell) for cell in SPACE.checks(CHOSEN, {16: CHOSEN}, turns)]
    assert [(found.prompts[0], found.max_outputs, found.max_seconds) for found in checks] == [
        ("measured", None, 2.0)
    ] * 2
