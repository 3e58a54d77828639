"""From records that two engines made in turn to speed and speedup. Pure functions."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from vllm_mtp.benchmarks.harness.method import Method
from vllm_mtp.benchmarks.harness.record import Record
from vllm_mtp.common.bootstrap import ratio_interval

Pair = tuple[Sequence[Record], Sequence[Record]]
"""What an engine with a method and the one beside it, without speculation, made of the same prompts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Speeds:
    """Output tokens per second, prefill included, and their ratio to those without speculation ("baseline")."""

    num_prompts: int
    output_tokens_per_second: float
    baseline_output_tokens_per_second: float
    speedup: float
    speedup_95: tuple[float, float]
    median_time_to_first_token_ms: float | None
    baseline_median_time_to_first_token_ms: float | None


def speed_row(method: Method, temperature: float, batch_size: int, pairs: Sequence[Pair]) -> dict[str, Any]:
    """Speed of a method against no speculation on the same prompts, at batch 1 by task as well."""
    row: dict[str, Any] = {
        **method.about(),
        "temperature": temperature,
        "batch_size": batch_size,
        "num_pairs": len(pairs),
        "speedup_of_pairs": [speeds([pair], batch_size).speedup for pair in pairs],
        **asdict(speeds(pairs, batch_size)),
    }
    if batch_size == 1:
        row["tasks"] = {task: asdict(found) for task, found in speeds_by_task(pairs).items()}
    return row


def speeds_by_task(pairs: Sequence[Pair]) -> dict[str, Speeds]:
    """`speeds` at batch 1 of each task's prompts."""

    def of(task: str, records: Sequence[Record]) -> list[Record]:
        return [record for record in records if record.task == task]

    tasks = dict.fromkeys(record.task for record in pairs[0][0])
    return {task: speeds([(of(task, one), of(task, two)) for one, two in pairs]) for task in tasks}


def speeds(pairs: Sequence[Pair], batch_size: int = 1) -> Speeds:
    """Both engines of a pair generated as many tokens for the same prompts in the same batches.

    So the ratio of speeds is that of times; its 95% interval is over pairs and batches (prompts, at batch 1).
    """
    drafted, plain = [one for one, _ in pairs], [two for _, two in pairs]
    tokens, seconds = _of_batches(drafted, batch_size)
    plain_tokens, plain_seconds = _of_batches(plain, batch_size)
    assert tokens == plain_tokens
    low, high = ratio_interval(plain_seconds, seconds, num_groups=len(pairs))
    return Speeds(
        num_prompts=len(drafted[0]),
        output_tokens_per_second=round(sum(tokens) / sum(seconds), 2),
        baseline_output_tokens_per_second=round(sum(tokens) / sum(plain_seconds), 2),
        speedup=round(sum(plain_seconds) / sum(seconds), 3),
        speedup_95=(round(low, 3), round(high, 3)),
        median_time_to_first_token_ms=_first_token_ms(drafted),
        baseline_median_time_to_first_token_ms=_first_token_ms(plain),
    )


def _of_batches(of_pairs: Sequence[Sequence[Record]], batch_size: int) -> tuple[list[int], list[float]]:
    """Tokens and seconds of each batch, pair after pair."""
    batches = [
        records[start : start + batch_size] for records in of_pairs for start in range(0, len(records), batch_size)
    ]
    return (
        [sum(len(record.token_ids) for record in batch) for batch in batches],
        [sum(record.seconds for record in batch) for batch in batches],
    )


def _first_token_ms(of_pairs: Sequence[Sequence[Record]]) -> float | None:
    seconds = [record.seconds_to_first_token for records in of_pairs for record in records]
    known = [one for one in seconds if one is not None]
    return round(1000 * median(known), 1) if len(known) == len(seconds) else None
