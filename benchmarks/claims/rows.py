"""What the claims study stores of an arm on a seed, and of the two arms that it times."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vllm_mtp.benchmarks.harness.figures import ends_in_loop_of
from vllm_mtp.benchmarks.harness.record import Record


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptCounts:
    """Counts of each prompt at one temperature."""

    num_drafts: Sequence[int]
    accepted_per_position: Sequence[Sequence[int]]
    num_loops: int
    """Outputs that end in a loop."""

    @classmethod
    def of(cls, records: Iterable[Record], max_tokens: int) -> "PromptCounts":
        records = list(records)
        counts = [record.acceptance for record in records]
        return cls(
            num_drafts=[one.num_drafts for one in counts],
            accepted_per_position=[one.num_accepted_tokens_per_position for one in counts],
            num_loops=sum(ends_in_loop_of(record, max_tokens) for record in records),
        )

    @property
    def num_accepted(self) -> list[int]:
        return [sum(accepted) for accepted in self.accepted_per_position]

    @property
    def acceptance_length(self) -> float:
        return 1 + sum(self.num_accepted) / sum(self.num_drafts)

    @property
    def acceptance_rate_per_position(self) -> list[float]:
        """Unconditional, over all prompts together."""
        return [sum(accepted) / sum(self.num_drafts) for accepted in zip(*self.accepted_per_position, strict=True)]


@dataclass(frozen=True, kw_only=True, slots=True)
class ArmRow:
    """An arm on one seed."""

    arm: str
    seed: int
    tokens_seen: int
    distinct_tokens: list[int]
    """Tokens of each stage."""
    training_seconds: float
    measuring_seconds: float
    draft: str
    """Its folder, seen from the study's."""
    counts: Mapping[str, PromptCounts]
    """By temperature: "0", "1"."""
    made_with: dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class SpeedRow:
    """The arms of the vocabulary claim on one seed."""

    seed: int
    seconds: Mapping[str, Sequence[float]]
    """Seconds of each prompt, by arm."""
    max_tokens: int
    made_with: dict[str, Any]


def arm_row(content: Mapping[str, Any]) -> ArmRow:
    """From JSON."""
    counts = {temperature: PromptCounts(**found) for temperature, found in content["counts"].items()}
    return ArmRow(**{**content, "counts": counts})
