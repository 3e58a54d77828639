"""From a trace of vLLM's profiler to the parts of each round. Pure functions, and the reading of files.

A round is what lies between two passes of the target in which requests were only decoded. Its parts are vLLM's own
scopes (`VLLM_CUSTOM_SCOPES_FOR_PROFILING`) and the drafter's (harness/scopes.py); the time of a scope within another
counts to the inner one alone.
"""

import gzip
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from vllm_mtp.benchmarks.harness.scopes import HEAD, LOOKUP, MODULE

REST = "rest"
PARTS = {
    "target": "target: layers",
    "target_head": "target: head",
    "sampling": "sampling, rejection",
    "module": "drafter: module",
    "draft_head": "drafter: head",
    "lookup": "drafter: lookup",
    "proposer": "vLLM's proposer",
    "runner": "vLLM's model runner",
    REST: "scheduler, engine, the rest",
}
"""Parts of a round, and what they are called."""
_PART_OF = {
    "gpu_model_runner: forward": "target",
    "gpu_model_runner: postprocess": "target_head",
    "gpu_model_runner: sample": "sampling",
    MODULE: "module",
    HEAD: "draft_head",
    LOOKUP: "lookup",
    "gpu_model_runner: draft": "proposer",
    "gpu_model_runner: preprocess": "runner",
    "gpu_model_runner: bookkeep": "runner",
    "gpu_model_runner: ModelRunnerOutput": "runner",
}
_PASS = re.compile(r"execute_context_(\d+)\(\d+\)_generation_(\d+)\(\d+\)")
"""What vLLM's worker calls a pass of the target: how many requests were read in, and how many were decoded."""
Round = Mapping[str, float]
"""Microseconds of each part."""


@dataclass(frozen=True, slots=True)
class _Scope:
    name: str
    start: float
    end: float


def rounds_of(events: Iterable[Mapping[str, Any]]) -> list[Round]:
    """The parts of every round of a trace.

    Args:
        events: `traceEvents` of a Chrome trace of torch's profiler, times in microseconds.

    Raises:
        ValueError: where vLLM named no passes or no parts of them.
    """
    scopes = sorted((_scope(event) for event in events if event.get("cat") == "user_annotation"), key=_outer_first)
    passes = [(one, found) for one in scopes if (found := _PASS.fullmatch(one.name))]
    if not passes or not any(one.name in _PART_OF for one in scopes):
        raise ValueError(
            "expected the scopes of vLLM's model runner in the profile, found none: its V2 runner has none, "
            "VLLM_USE_V2_MODEL_RUNNER=0 takes the one that has"
        )
    named = [one for one in scopes if one.name in _PART_OF]
    rounds = []
    for (one, found), (following, next_found) in pairwise(passes):
        if found[1] == next_found[1] == "0" and found[2] == next_found[2]:
            inside = [scope for scope in named if one.start <= scope.start and scope.end <= following.start]
            rounds.append(_parts(inside, following.start - one.start))
    return rounds


def read_rounds(folder: Path) -> list[Round]:
    """The rounds of all traces in a folder, of the first rank where there are several."""
    found = []
    for path in sorted(folder.glob("*rank0*.pt.trace.json.gz")):
        with gzip.open(path) as file:
            found += rounds_of(json.load(file)["traceEvents"])
    return found


def _parts(scopes: Sequence[_Scope], whole: float) -> Round:
    """Time by part; of scopes in order, an outer one before those within it."""
    parts = dict.fromkeys(PARTS, 0.0)
    around: list[_Scope] = []
    for one in scopes:
        while around and around[-1].end < one.end:
            around.pop()
        length = one.end - one.start
        parts[_PART_OF[one.name]] += length
        if around:
            parts[_PART_OF[around[-1].name]] -= length
        around.append(one)
    parts[REST] = whole - sum(parts.values())
    return parts


def _scope(event: Mapping[str, Any]) -> _Scope:
    return _Scope(event["name"], event["ts"], event["ts"] + event["dur"])


def _outer_first(scope: _Scope) -> tuple[float, float]:
    return scope.start, -scope.end
