"""Later turns of conversations: what is asked after the target's own answers to the turns before.

All rows are measured on the same prompts, so that what stands between two turns is what the target answers without
speculation at temperature 0. It is kept beside the rows, and not asked for again.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vllm_mtp.benchmarks.acceptance.setup import Setup
from vllm_mtp.benchmarks.harness.engine import EngineProcess
from vllm_mtp.benchmarks.harness.prompts import BenchmarkPrompt
from vllm_mtp.benchmarks.harness.record import Request
from vllm_mtp.benchmarks.harness.row_store import RowStore


def with_later_turns(
    setup: Setup, output: Path, made_with: Mapping[str, Any], engine: Callable[[Setup], EngineProcess]
) -> Setup:
    """The setup with all turns that its config asks for.

    Args:
        setup: of first turns.
        output: folder of the rows.
        made_with: where answers come from, if they are made here.
        engine: starts one without speculation; it is asked for the answers of a turn that the folder does not have.

    Raises:
        ValueError: for a folder with answers of other settings.
        EngineError: if an engine ended.
    """
    answers: dict[int, list[int]] = {}
    for turn in range(1, setup.config.turns):
        prompts = setup.conversations.to_answer(setup.prompts, turn)
        if not prompts:
            break
        kind = f"answers-{turn}"
        store = RowStore(output, {kind: setup.settings()["acceptance"]})
        if kind not in store:
            with engine(setup) as running:
                store.save(kind, kind, {"answers": _answers(setup, running, prompts), "made_with": made_with})
        answers |= {int(number): ids for number, ids in store.load(kind)["answers"].items()}
        setup = setup.asking([*setup.prompts, *setup.conversations.prompts(turn + 1, answers)])
    return setup


def _answers(setup: Setup, engine: EngineProcess, prompts: Sequence[BenchmarkPrompt]) -> dict[int, list[int]]:
    request = Request(
        prompts=prompts,
        max_tokens=setup.config.max_tokens,
        seed=setup.config.seed,
        ignore_eos=False,
        batch_size=len(prompts),
    )
    return {record.number: list(record.token_ids) for record in engine.measure(request)}
