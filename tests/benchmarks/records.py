"""Records of prompts and results of engines, made up for tests."""

from typing import Any

from vllm_mtp.benchmarks.harness.acceptance import Acceptance


def result(
    token_ids: list[int], rounds: list[tuple[int, int]] | None = None, *, k: int = 0, seconds: float = 1.0
) -> dict[str, Any]:
    """What `EngineProcess.measure` returns for one prompt; rounds are (draft tokens, accepted tokens)."""
    counts = Acceptance.of_rounds(rounds or [], k)
    return {
        "token_ids": token_ids,
        "finish_reason": "length",
        "seconds": seconds,
        "seconds_to_first_token": seconds / 10,
        "rounds": rounds,
        "num_drafts": counts.num_drafts,
        "num_draft_tokens": counts.num_draft_tokens,
        "num_accepted_tokens_per_position": list(counts.num_accepted_tokens_per_position),
    }


def record(number: int, category: str, task: str, num_prompt_tokens: int, **of_result: Any) -> dict[str, Any]:
    """What is kept of one prompt."""
    about = {"number": number, "category": category, "task": task, "num_prompt_tokens": num_prompt_tokens}
    return about | result(**of_result)
