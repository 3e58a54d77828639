"""From the records of one method at one temperature to figures. Pure functions."""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vllm_mtp.benchmarks.harness.acceptance import total
from vllm_mtp.benchmarks.harness.method import Method
from vllm_mtp.benchmarks.harness.record import Record
from vllm_mtp.common.bootstrap import ratio_interval
from vllm_mtp.training.data.repetition import ends_in_loop, loop_window

CONTEXT_LENGTHS = (0, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072)
Kept = tuple[int, int]
"""Accepted draft tokens that came out, and drafts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """Acceptance, loops and identical outputs over some prompts; results.json has the same names."""

    num_prompts: int
    num_tokens: int
    num_drafts: int
    num_discarded_tokens: int
    """Accepted draft tokens after the end of an output: in vLLM's counters and in the rates, not in the lengths."""
    acceptance_length: float
    """1 + (accepted - discarded) / drafts: what came out of a round that had a draft."""
    acceptance_length_95: tuple[float, float]
    acceptance_rate: float
    acceptance_rate_per_position: tuple[float, ...]
    conditional_acceptance_rate_per_position: tuple[float | None, ...]
    """None where no draft came that far."""
    tokens_per_forward: float
    num_loops: int
    """Outputs that end in a loop."""
    acceptance_length_without_loops: float | None
    """Over the other outputs; None if there are none."""
    num_identical: int | None
    """Outputs that are those without speculation; None: not compared."""


def figures(
    records: Sequence[Record], *, max_tokens: int, without_speculation: Sequence[Record] | None = None
) -> Figures:
    """All figures over some prompts.

    Args:
        records: one for each prompt.
        max_tokens: what generation was limited to.
        without_speculation: to count identical outputs, records that have these prompts among them; None: not counted.
    """
    straight = [record for record in records if not ends_in_loop_of(record, max_tokens)]
    joined = total([record.acceptance for record in records])
    num_identical = None
    if without_speculation is not None:
        expected = {record.number: list(record.token_ids) for record in without_speculation}
        num_identical = sum(list(record.token_ids) == expected[record.number] for record in records)
    return Figures(
        num_prompts=len(records),
        num_tokens=sum(len(record.token_ids) for record in records),
        num_drafts=joined.num_drafts,
        num_discarded_tokens=sum(record.num_discarded_tokens for record in records),
        **_length([_kept(record) for record in records]),
        acceptance_rate=round(joined.acceptance_rate, 4),
        acceptance_rate_per_position=tuple(round(rate, 4) for rate in joined.acceptance_rate_per_position),
        conditional_acceptance_rate_per_position=tuple(
            None if rate is None else round(rate, 4) for rate in joined.conditional_acceptance_rate_per_position
        ),
        tokens_per_forward=round(tokens_per_forward(records), 4),
        num_loops=len(records) - len(straight),
        acceptance_length_without_loops=_length_of([_kept(record) for record in straight]) if straight else None,
        num_identical=num_identical,
    )


def ends_in_loop_of(record: Record, max_tokens: int) -> bool:
    return ends_in_loop(record.token_ids, window=loop_window(max_tokens))


def acceptance_row(
    method: Method,
    temperature: float,
    records: Sequence[Record],
    *,
    max_tokens: int,
    without_speculation: Sequence[Record] | None = None,
) -> dict[str, Any]:
    """A row of results.json: figures over all prompts together, and by task, category, context length and, of
    several, turn."""
    if method.num_speculative_tokens:
        assert all(record.num_drafts is not None for record in records)

    def of(some: Iterable[Record]) -> dict[str, Any]:
        return asdict(figures(list(some), max_tokens=max_tokens, without_speculation=without_speculation))

    def by(name: str) -> dict[str, Any]:
        parts = dict.fromkeys(getattr(record, name) for record in records)
        return {str(part): of(record for record in records if getattr(record, name) == part) for part in parts}

    turns = by("turn")
    return {
        **method.about(),
        "temperature": temperature,
        **of(records),
        "context_length_is": "round" if all(record.rounds is not None for record in records) else "prompt",
        "by_context_length": by_context_length(records),
        "tasks": by("task"),
        "categories": by("category"),
        **({"turns": turns} if len(turns) > 1 else {}),
    }


def tokens_per_forward(records: Sequence[Record]) -> float:
    """Tokens per target forward after each output's first token, rounds without drafts included.

    The acceptance length counts rounds with drafts only. For the MTP drafter, which always drafts where no schedule has
    a K of 0, both are the same but for the end of an output; n-gram and suffix drafting often find nothing to draft.
    """
    num_tokens = num_forwards = 0
    for record in records:
        counts, after_first = record.acceptance, len(record.token_ids) - 1
        num_tokens += after_first
        # Every round without a draft gave one token. The last draft may have gone beyond the end of the output.
        num_forwards += counts.num_drafts + max(0, after_first - counts.num_drafts - counts.num_accepted_tokens)
    return num_tokens / num_forwards if num_forwards else 1.0


def by_context_length(records: Sequence[Record]) -> dict[str, dict[str, Any]]:
    """Acceptance by the tokens of prompt and output before each round, in ranges; empty ranges are left out.

    Where an engine does not tell its rounds, all of a prompt's rounds count to the range of the prompt's length. Rounds
    without drafts are not told, so that for n-gram and suffix drafting a round's context is at least what is counted.
    """
    return lengths_by(records, _range_of, _range_name)


def lengths_by(
    records: Sequence[Record], part_of: Callable[[int], int], name_of: Callable[[int], str]
) -> dict[str, dict[str, Any]]:
    """Acceptance lengths of rounds by a part of their contexts, in the order of parts; empty ones are left out.

    Args:
        records: one for each prompt.
        part_of: the part that a context of so many tokens is in.
        name_of: what a part is called.
    """
    parts: dict[int, list[Kept]] = {}
    for record in records:
        of_record: dict[int, Kept] = {}
        for context, kept in _rounds_of(record):
            part = part_of(context)
            before = of_record.get(part, (0, 0))
            of_record[part] = before[0] + kept[0], before[1] + kept[1]
        for part, kept in of_record.items():
            parts.setdefault(part, []).append(kept)
    return {
        name_of(part): {
            "num_prompts": len(some),
            "num_drafts": sum(num_drafts for _, num_drafts in some),
            **_length(some),
        }
        for part, some in sorted(parts.items())
    }


def _rounds_of(record: Record) -> Iterator[tuple[int, Kept]]:
    """(tokens before the round, what it kept), or all rounds together behind the prompt where none are told."""
    if record.rounds is None:
        if record.num_accepted_tokens_per_position:
            yield record.num_prompt_tokens, _kept(record)
        return
    context, last = record.num_prompt_tokens + 1, len(record.rounds) - 1
    for index, (num_drafted, num_accepted) in enumerate(record.rounds):
        if num_drafted:
            discarded = record.num_discarded_tokens if index == last else 0
            yield context, (num_accepted - discarded, 1)
        context += num_accepted + 1


def _kept(record: Record) -> Kept:
    counts = record.acceptance
    return counts.num_accepted_tokens - record.num_discarded_tokens, counts.num_drafts


def _length_of(some: Sequence[Kept]) -> float:
    num_drafts = sum(drafts for _, drafts in some)
    return round(1 + sum(accepted for accepted, _ in some) / num_drafts, 4) if num_drafts else 1.0


def _length(some: Sequence[Kept]) -> dict[str, Any]:
    """The acceptance length of some prompts, and its 95% interval over prompts resampled."""
    low, high = ratio_interval(*zip(*some, strict=True))
    return {"acceptance_length": _length_of(some), "acceptance_length_95": (round(1 + low, 4), round(1 + high, 4))}


def _range_of(length: int) -> int:
    return bisect_right(CONTEXT_LENGTHS, length) - 1


def _range_name(index: int) -> str:
    start = CONTEXT_LENGTHS[index]
    return f"{start}-{CONTEXT_LENGTHS[index + 1] - 1}" if index + 1 < len(CONTEXT_LENGTHS) else f"{start}-"
