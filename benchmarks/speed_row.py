"""From outputs that two engines made in turn to speed and speedup. Pure functions; records as in acceptance_row.py."""

# Shapes: P pairs of engines, B batches (prompts, at batch 1), N resamples.

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np

from vllm_mtp.acceptance import ratio_interval
from vllm_mtp.benchmarks.method import Method

Record = Mapping[str, Any]
Pair = tuple[Sequence[Record], Sequence[Record]]
"""What an engine with a method and the one beside it, without speculation, made of the same prompts."""
_NUM_RESAMPLES = 1000


def speed_row(method: Method, temperature: float, batch_size: int, pairs: Sequence[Pair]) -> dict[str, Any]:
    """Speed of a method against no speculation on the same prompts, at batch 1 by task as well."""
    row: dict[str, Any] = {
        **method.about(),
        "temperature": temperature,
        "batch_size": batch_size,
        "num_pairs": len(pairs),
        "speedup_of_pairs": [speeds([pair], batch_size)["speedup"] for pair in pairs],
        **speeds(pairs, batch_size),
    }
    if batch_size == 1:
        row["tasks"] = speeds_by_task(pairs)
    return row


def speeds_by_task(pairs: Sequence[Pair]) -> dict[str, dict[str, Any]]:
    """`speeds` at batch 1 of each task's prompts."""

    def of(task: str, some: Sequence[Record]) -> list[Record]:
        return [record for record in some if record["task"] == task]

    tasks = dict.fromkeys(record["task"] for record in pairs[0][0])
    return {task: speeds([(of(task, one), of(task, two)) for one, two in pairs]) for task in tasks}


def speeds(pairs: Sequence[Pair], batch_size: int = 1) -> dict[str, Any]:
    """Output tokens per second, prefill included, and their ratio to the baseline's.

    Both engines of a pair generated the same number of tokens for the same prompts in the same batches, so that the
    ratio of speeds is that of times; its 95% interval is over pairs and batches (prompts, at batch 1).
    """
    records, baseline = ([record for pair in pairs for record in pair[which]] for which in (0, 1))
    tokens, seconds = _of_batches(records, batch_size)
    baseline_tokens, baseline_seconds = _of_batches(baseline, batch_size)
    assert tokens == baseline_tokens
    return {
        "num_prompts": len(pairs[0][0]),
        "output_tokens_per_second": round(sum(tokens) / sum(seconds), 2),
        "baseline_output_tokens_per_second": round(sum(tokens) / sum(baseline_seconds), 2),
        "speedup": round(sum(baseline_seconds) / sum(seconds), 3),
        "speedup_95": [round(bound, 3) for bound in _interval(baseline_seconds, seconds, len(pairs))],
        "median_time_to_first_token_ms": _first_token_ms(records),
        "baseline_median_time_to_first_token_ms": _first_token_ms(baseline),
    }
