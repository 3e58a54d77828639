"""Rounds of a real engine, whose K and lookup change while it lives.

Catches: a K or module_steps that vLLM does not take, an output that depends on them, rounds of another batch size, an
output that is lost or there twice, requests left under way.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.records import prompt
from tests.drafts import with_lookup
from tests.serving.engine import acceptance, engine
from vllm_mtp.benchmarks.harness import rounds_server
from vllm_mtp.benchmarks.harness.live import schedule_table
from vllm_mtp.benchmarks.harness.rounds import RoundsRequest
from vllm_mtp.benchmarks.harness.rounds_server import RoundsServer

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

MAX_TOKENS = 24


@pytest.fixture(scope="module")
def llm(target_dir: Path, draft_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    draft = with_lookup(draft_dir, tmp_path_factory.mktemp("lookup") / "draft")
    schedule = {"num_speculative_tokens_per_batch_size": [(1, 1, 0), (2, 2, 2), (3, 3, 3)]}
    local_argmax = {"use_local_argmax_reduction": True}
    with engine(target_dir, draft, 3, speculative=schedule | local_argmax, max_num_seqs=8) as found:
        yield found


def request(prompts: list[list[int]], *, num_prompts: int = 6, **changes: Any) -> RoundsRequest:
    some = [prompt(*ids, number=number) for number, ids in enumerate(prompts[:num_prompts])]
    return RoundsRequest(**{"prompts": some, "batch_size": 4, "max_tokens": MAX_TOKENS} | changes)


def no_progress(number: int) -> None:
    assert number == 1


def test_every_k_is_taken_and_every_output_is_there_once(llm: Any, prompts: list[list[int]]) -> None:
    lengths = []
    for k in (3, 0, 2):
        before = acceptance(llm)
        found = RoundsServer(llm).measure(request(prompts, num_speculative_tokens=k), no_progress)
        assert sorted(output.number for output in found.outputs) == list(range(6))
        lengths.append([1 + sum(output.tokens) for output in sorted(found.outputs, key=lambda one: one.number)])
        counted = acceptance(llm) - before
        # The round that reads a prompt drafts, and so does the last one; near an output's end fewer are verified.
        assert counted.num_draft_tokens <= k * counted.num_drafts
        assert all(count == 0 for count in counted.num_accepted_tokens_per_position[k:])
        tokens = [one for output in found.outputs for one in output.tokens]
        assert max(tokens) == k + 1 if k else set(tokens) == {1}
        assert all(4 <= of_round <= 4 * (k + 1) for of_round in found.tokens)
    assert lengths[0] == lengths[1] == lengths[2], "greedy outputs end where they end"


def test_module_steps_are_taken(llm: Any, prompts: list[list[int]]) -> None:
    """Over the first tokens of many prompts: in a loop everything is copied."""

    def accepted(module_steps: int) -> int:
        few_tokens_each = request(
            prompts, num_prompts=24, max_tokens=12, num_speculative_tokens=3, module_steps=module_steps
        )
        found = RoundsServer(llm).measure(few_tokens_each, no_progress)
        return sum(one > 2 for output in found.outputs for one in output.tokens)

    few, many = accepted(1), accepted(3)
    assert accepted(1) == few < many, "beyond the module's steps drafts are guesses"


def test_it_stops_as_told_and_leaves_nothing_behind(llm: Any, prompts: list[list[int]]) -> None:
    endless = request(prompts, batch_size=2, repeat=True, num_speculative_tokens=2, max_seconds=0.0, min_rounds=3)
    found = RoundsServer(llm).measure(endless, no_progress)
    assert len(found.seconds) == len(found.tokens) == 3
    assert all(seconds > 0 for seconds in found.seconds)
    assert not llm.llm_engine.has_unfinished_requests()
    found = RoundsServer(llm).measure(request(prompts, repeat=True, max_seconds=0.0, min_rounds=60), no_progress)
    assert len(found.outputs) >= 9
    assert len(found.seconds) == 60
    assert len({output.number for output in found.outputs}) == 6, "prompts come again"


def test_the_engines_own_schedule_comes_back(llm: Any, prompts: list[list[int]]) -> None:
    """Here one that drafts nothing."""
    table = schedule_table(llm)
    table[:] = [0] * len(table)
    server, most = RoundsServer(llm), []
    for k in (None, 3, None):
        found = server.measure(request(prompts, batch_size=1, num_speculative_tokens=k), no_progress)
        most.append(max(found.tokens))
    assert most[0] == most[2] == 1 < most[1]


def test_what_is_kept_is_of_the_same_prompts(llm: Any, prompts: list[list[int]]) -> None:
    server = RoundsServer(llm)
    endless = {"batch_size": 2, "repeat": True, "keep": True, "max_seconds": 0.0}
    server.measure(request(prompts, num_speculative_tokens=3, **endless), no_progress)
    others = [prompt(*ids, number=100 + number) for number, ids in enumerate(prompts[6:12])]
    some = replace(request(prompts, num_speculative_tokens=3, **endless), prompts=others, min_rounds=40)
    found = server.measure(some, no_progress)
    assert found.outputs
    assert {output.number for output in found.outputs} <= {one.number for one in others}
    server.end()


def test_what_is_kept_goes_on_with_another_k(llm: Any, prompts: list[list[int]]) -> None:
    server = RoundsServer(llm)
    endless = {"batch_size": 3, "repeat": True, "keep": True, "max_seconds": 0.0, "min_rounds": 2}
    outputs = []
    for k in (3, 0, 2) * 4:
        found = server.measure(request(prompts, num_speculative_tokens=k, **endless), no_progress)
        assert all(tokens <= 3 * (k + 1) for tokens in found.tokens)
        assert llm.llm_engine.get_num_unfinished_requests() == 3
        outputs += found.outputs
    num_untimed = []
    for k in (3, 3, 2):
        server.measure(request(prompts, num_speculative_tokens=k, **endless), no_progress)
        assert server._flight is not None
        num_untimed.append(len(server._flight.rounds) - 2)
    assert num_untimed == [3, 1, 3], "one with another K verifies what was drafted before"
    whole = server.measure(request(prompts, num_speculative_tokens=3), no_progress)
    lengths = {output.number: sum(output.tokens) for output in whole.outputs}
    assert len(outputs) > 3
    assert all(sum(output.tokens) == lengths[output.number] for output in outputs), "none was begun anew, or cut short"
    server.measure(request(prompts, num_speculative_tokens=1, **endless | {"batch_size": 2}), no_progress)
    assert llm.llm_engine.get_num_unfinished_requests() == 2
    server.end()
    assert not llm.llm_engine.has_unfinished_requests()


def test_outputs_too_short_to_be_timed_are_an_error(
    llm: Any, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a wait for ever, where somebody ends in every pass."""
    monkeypatch.setattr(rounds_server, "_MOST_PASSES", 5)
    server = RoundsServer(llm)
    short = request(prompts, repeat=True, max_tokens=1, max_seconds=0.1, keep=True)
    with pytest.raises(ValueError, match="expected outputs long enough that 4 go on beside each other"):
        server.measure(short, no_progress)
    server.end()
