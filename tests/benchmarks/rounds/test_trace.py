"""Parts of rounds from the events of a trace, against times worked out by hand.

Catches: the time of an inner scope that counts twice, a pass that reads a prompt among the rounds, a runner without
scopes that gives rounds of nothing but rest.
"""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from vllm_mtp.benchmarks.rounds.trace import PARTS, read_rounds, rounds_of

DECODED = "execute_context_0(0)_generation_1(4)"
READ = "execute_context_1(64)_generation_0(0)"


def scope(name: str, start: float, length: float, kind: str = "user_annotation") -> dict[str, Any]:
    return {"ph": "X", "cat": kind, "name": name, "ts": start, "dur": length}


def one_round(start: float) -> list[dict[str, Any]]:
    """Of a drafter with lookup, 100 microseconds after `start` at its end."""
    return [
        scope(DECODED, start, 55),
        scope("gpu_model_runner: preprocess", start, 5),
        scope("gpu_model_runner: forward", start + 5, 40),
        scope("aten::mm", start + 6, 30, kind="cpu_op"),
        scope("gpu_model_runner: postprocess", start + 45, 10),
        scope("gpu_model_runner: sample", start + 55, 4),
        scope("gpu_model_runner: draft", start + 60, 30),
        scope("mtp: module", start + 62, 12),
        scope("mtp: lookup", start + 62, 2),
        scope("mtp: lookup", start + 73, 1),
        scope("mtp: head", start + 75, 6),
        scope("mtp: lookup", start + 76, 1),
        scope("gpu_model_runner: bookkeep", start + 90, 3),
    ]


def test_every_microsecond_counts_once() -> None:
    [found] = rounds_of([*one_round(0), *one_round(100)])
    assert found == {
        "target": 40,
        "target_head": 10,
        "sampling": 4,
        "module": 9,
        "draft_head": 5,
        "lookup": 4,
        "proposer": 12,
        "runner": 8,
        "rest": 8,
    }
    assert list(found) == list(PARTS)
    assert sum(found.values()) == 100


def test_a_pass_that_reads_a_prompt_is_no_round_and_ends_none() -> None:
    events = [*one_round(0), *one_round(100), scope(READ, 200, 50), *one_round(300), *one_round(400)]
    assert len(rounds_of(events)) == 2


def test_a_round_of_another_batch_is_none() -> None:
    fewer = [event | {"name": event["name"].replace("generation_1", "generation_2")} for event in one_round(0)]
    assert rounds_of([*fewer, *one_round(100)]) == []


@pytest.mark.parametrize("kept", ["execute", "gpu_model_runner"])
def test_a_runner_without_scopes_is_refused(kept: str) -> None:
    events = [event for event in (*one_round(0), *one_round(100)) if event["name"].startswith(kept)]
    with pytest.raises(ValueError, match="VLLM_USE_V2_MODEL_RUNNER=0"):
        rounds_of(events)


def test_traces_of_the_first_rank_are_read(tmp_path: Path) -> None:
    for name in ("dp0_pp0_tp0_rank0.1.pt.trace.json.gz", "rank0.2.pt.trace.json.gz", "rank1.3.pt.trace.json.gz"):
        with gzip.open(tmp_path / name, "wt") as file:
            json.dump({"traceEvents": [*one_round(0), *one_round(100)]}, file)
    assert len(read_rounds(tmp_path)) == 2
