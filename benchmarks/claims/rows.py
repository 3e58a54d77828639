"""What the claims study stores of an arm on a seed, and of the two arms that it times."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vllm_mtp.benchmarks.harness.acceptance import Acceptance


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
    counts: Mapping[str, Sequence[Acceptance]]
    """Of each prompt, by temperature: "0", "1"."""
    num_loops: Mapping[str, int]
    """Outputs that end in a loop, by temperature."""
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
    counts = {name: [Acceptance(**one) for one in found] for name, found in content["counts"].items()}
    return ArmRow(**{**content, "counts": counts})
