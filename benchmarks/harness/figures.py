"""From the outputs of one method at one temperature to a row of figures. Pure functions.

A record is what is kept of one prompt: `number`, `category`, `task`, `num_prompt_tokens` and the fields of
`EngineProcess.measure`.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

from vllm_mtp.benchmarks.harness.acceptance import Acceptance, acceptance_length_interval, total
from vllm_mtp.benchmarks.harness.method import Method
from vllm_mtp.training.data.repetition import ends_in_loop, loop_window

Record = Mapping[str, Any]
Reference = Mapping[int, Sequence[int]]
CONTEXT_LENGTHS = (0, 128, 256, 512, 1024, 2048, 4096, 8192)


def acceptance_row(
    method: Method, temperature: float, records: Sequence[Record], *, reference: Reference | None, max_tokens: int
) -> dict[str, Any]:
    """All figures of a method: over all prompts together, and by task, category and context length.

    Args:
        method: which drafted.
        temperature: of the sampling.
        records: one for each prompt.
        reference: token ids without speculation by prompt number, to count identical outputs; None: not counted.
        max_tokens: what generation was limited to.
    """

    def by(name: str) -> dict[str, Any]:
        groups = dict.fromkeys(record[name] for record in records)
        return {
            group: figures([record for record in records if record[name] == group], method, reference, max_tokens)
            for group in groups
        }

    return {
        **method.about(),
        "temperature": temperature,
        **figures(records, method, reference, max_tokens),
        "context_length_is": "round" if all(record["rounds"] is not None for record in records) else "prompt",
        "by_context_length": by_context_length(records, method),
        "tasks": by("task"),
        "categories": by("category"),
    }


def figures(records: Sequence[Record], method: Method, reference: Reference | None, max_tokens: int) -> dict[str, Any]:
    """Acceptance, loops and identical outputs over some prompts."""
    loops = [ends_in_loop(record["token_ids"], window=loop_window(max_tokens)) for record in records]
    counts = [counts_of(record, method) for record in records]
    straight = [one for one, loop in zip(counts, loops, strict=True) if not loop]
    joined = total(counts)
    identical = None
    if reference is not None:
        identical = sum(list(record["token_ids"]) == list(reference[record["number"]]) for record in records)
    return {
        "num_prompts": len(records),
        "num_tokens": sum(len(record["token_ids"]) for record in records),
        **_lengths(counts),
        "acceptance_rate": round(joined.acceptance_rate, 4),
        "acceptance_rate_per_position": [round(rate, 4) for rate in joined.acceptance_rate_per_position],
        "conditional_acceptance_rate_per_position": [
            None if rate is None else round(rate, 4) for rate in joined.conditional_acceptance_rate_per_position
        ],
        "tokens_per_forward": round(tokens_per_forward(records, method), 4),
        "num_loops": sum(loops),
        "acceptance_length_without_loops": round(total(straight).acceptance_length, 4) if straight else None,
        "num_identical": identical,
    }


def _lengths(counts: Sequence[Acceptance]) -> dict[str, Any]:
    return {
        "num_drafts": sum(one.num_drafts for one in counts),
        "acceptance_length": round(total(counts).acceptance_length, 4),
        "acceptance_length_95": [round(bound, 4) for bound in acceptance_length_interval(counts)],
    }


def counts_of(record: Record, method: Method) -> Acceptance:
    """A record's counts; those of no draft for a method that does not draft."""
    if method.num_speculative_tokens == 0:
        return Acceptance(num_drafts=0, num_draft_tokens=0, num_accepted_tokens_per_position=())
    return Acceptance(
        num_drafts=record["num_drafts"],
        num_draft_tokens=record["num_draft_tokens"],
        num_accepted_tokens_per_position=tuple(record["num_accepted_tokens_per_position"]),
    )


def tokens_per_forward(records: Sequence[Record], method: Method) -> float:
    """Tokens per target forward after each output's first token, rounds without drafts included.

    The acceptance length counts rounds with drafts only. For the MTP drafter, which always drafts where no schedule has
    a K of 0, both are the same but for the end of an output; n-gram and suffix drafting often find nothing to draft.
    """
    num_tokens = num_forwards = 0
    for record in records:
        counts = counts_of(record, method)
        after_first = len(record["token_ids"]) - 1
        num_tokens += after_first
        # Every round without a draft gave one token. The last draft may have gone beyond the end of the output.
        num_forwards += counts.num_drafts + max(0, after_first - counts.num_drafts - counts.num_accepted_tokens)
    return num_tokens / num_forwards if num_forwards else 1.0


def by_context_length(records: Sequence[Record], method: Method) -> dict[str, Any]:
    """Acceptance by the tokens of prompt and output before each round, in ranges; empty ranges are left out.

    Where an engine does not tell its rounds, all of a prompt's rounds count to the range of the prompt's length. Rounds
    without drafts are not told, so that for n-gram and suffix drafting a round's context is at least what is counted.
    """
    parts: dict[int, list[Acceptance]] = {}
    for record in records if method.num_speculative_tokens else ():
        if record["rounds"] is None:
            parts.setdefault(_range_of(record["num_prompt_tokens"]), []).append(counts_of(record, method))
            continue
        rounds: dict[int, list[tuple[int, int]]] = {}
        length = record["num_prompt_tokens"] + 1
        for drafted, accepted in record["rounds"]:
            rounds.setdefault(_range_of(length), []).append((drafted, accepted))
            length += accepted + 1
        for index, some in rounds.items():
            parts.setdefault(index, []).append(Acceptance.of_rounds(some, method.num_speculative_tokens))
    return {_range_name(index): {"num_prompts": len(parts[index]), **_lengths(parts[index])} for index in sorted(parts)}


def _range_of(length: int) -> int:
    return bisect_right(CONTEXT_LENGTHS, length) - 1


def _range_name(index: int) -> str:
    start = CONTEXT_LENGTHS[index]
    return f"{start}-{CONTEXT_LENGTHS[index + 1] - 1}" if index + 1 < len(CONTEXT_LENGTHS) else f"{start}-"
