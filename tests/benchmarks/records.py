"""Records of prompts, made up for tests."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from vllm_mtp.benchmarks.harness.acceptance import Acceptance
from vllm_mtp.benchmarks.harness.prompts import BenchmarkPrompt
from vllm_mtp.benchmarks.harness.record import Record


def prompt(*token_ids: int, number: int = 0) -> BenchmarkPrompt:
    return BenchmarkPrompt(number=number, category="qa", task="qa", token_ids=token_ids)


def record(
    token_ids: Sequence[int],
    rounds: list[tuple[int, int]] | None = None,
    *,
    k: int = 0,
    seconds: float = 1.0,
    **prompt: Any,
) -> Record:
    """Of a prompt without tokens in task "qa" unless told otherwise; rounds are (draft tokens, accepted tokens)."""
    counts = asdict(Acceptance.of_rounds(rounds or [], k))
    about = {"category": "qa", "task": "qa"} | prompt
    return Record(
        token_ids=token_ids, seconds=seconds, seconds_to_first_token=seconds / 10, rounds=rounds, **counts, **about
    )
