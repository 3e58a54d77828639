"""Engines that take turns."""

from typing import Any

from tests.benchmarks.records import prompt
from vllm_mtp.benchmarks.harness.record import Record, Request
from vllm_mtp.benchmarks.harness.turns import in_turn


class Engine:
    """Says what it was asked, and answers with its own name's length."""

    def __init__(self, name: str, asked: list[tuple[str, list[int], int]]) -> None:
        self.name, self.asked = name, asked

    def measure(self, request: Request, on_progress: Any = None) -> list[Record]:
        self.asked.append((self.name, [one.token_ids[0] for one in request.prompts], request.seed))
        return [Record(token_ids=[*one.token_ids, len(self.name)]) for one in request.prompts]


def test_the_order_changes_with_every_turn_and_pass() -> None:
    """Catches an engine that always comes second, when the machine is warm, and seeds that depend on the order."""
    asked: list[tuple[str, list[int], int]] = []
    engines: Any = [Engine("a", asked), Engine("bb", asked)]
    request = Request(prompts=[prompt(7), prompt(8), prompt(9)], max_tokens=4, seed=5)
    found = in_turn(engines, request, prompts_per_turn=2, num_passes=2)
    assert asked == [
        *(("a", [7, 8], 5), ("bb", [7, 8], 5), ("bb", [9], 7), ("a", [9], 7)),
        *(("bb", [7, 8], 1005), ("a", [7, 8], 1005), ("a", [9], 1007), ("bb", [9], 1007)),
    ]
    assert [[[one.token_ids for one in records] for records in passes] for passes in found] == [
        [[[7, 1], [8, 1], [9, 1]]] * 2,
        [[[7, 2], [8, 2], [9, 2]]] * 2,
    ]
