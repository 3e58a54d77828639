"""From outputs that two engines made in turn to speed and speedup. Pure functions; records as in acceptance_row.py."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from vllm_mtp.acceptance import ratio_interval
from vllm_mtp.benchmarks.method import Method

Record = Mapping[str, Any]


def speed_row(
    method: Method, temperature: float, batch_size: int, records: Sequence[Record], baseline: Sequence[Record]
) -> dict[str, Any]:
    """Speed of a method against no speculation on the same prompts, at batch 1 by task as well."""
    row: dict[str, Any] = {
        **method.about(),
        "temperature": temperature,
        "batch_size": batch_size,
        **speeds(records, baseline, batch_size),
    }
    if batch_size == 1:
        row["tasks"] = speeds_by_task(records, baseline)
    return row


def speeds_by_task(records: Sequence[Record], baseline: Sequence[Record]) -> dict[str, dict[str, Any]]:
    """`speeds` at batch 1 of each task's prompts."""

    def of(task: str, some: Sequence[Record]) -> list[Record]:
        return [record for record in some if record["task"] == task]

    tasks = dict.fromkeys(record["task"] for record in records)
    return {task: speeds(of(task, records), of(task, baseline)) for task in tasks}


def speeds(records: Sequence[Record], baseline: Sequence[Record], batch_size: int = 1) -> dict[str, Any]:
    """Output tokens per second, prefill included, and their ratio to the baseline's.

    Both generated the same number of tokens for the same prompts in the same batches, so that the ratio of speeds is
    that of times; its 95% interval is over batches (prompts, at batch 1), resampled in pairs.
    """
    tokens, seconds = _of_batches(records, batch_size)
    baseline_tokens, baseline_seconds = _of_batches(baseline, batch_size)
    assert tokens == baseline_tokens
    return {
        "num_prompts": len(records),
        "output_tokens_per_second": round(sum(tokens) / sum(seconds), 2),
        "baseline_output_tokens_per_second": round(sum(tokens) / sum(baseline_seconds), 2),
        "speedup": round(sum(baseline_seconds) / sum(seconds), 3),
        "speedup_95": [round(bound, 3) for bound in ratio_interval(baseline_seconds, seconds)],
        "median_time_to_first_token_ms": _first_token_ms(records),
        "baseline_median_time_to_first_token_ms": _first_token_ms(baseline),
    }


def _of_batches(records: Sequence[Record], batch_size: int) -> tuple[list[int], list[float]]:
    """Tokens and seconds of each batch."""
    batches = [records[start : start + batch_size] for start in range(0, len(records), batch_size)]
    return (
        [sum(len(record["token_ids"]) for record in batch) for batch in batches],
        [sum(record["seconds"] for record in batch) for batch in batches],
    )


def _first_token_ms(records: Sequence[Record]) -> float | None:
    seconds = [record["seconds_to_first_token"] for record in records]
    return None if None in seconds else round(1000 * median(seconds), 1)
