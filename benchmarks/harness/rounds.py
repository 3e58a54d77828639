"""Rounds one by one: some requests under way, the next begun when one ends, the seconds and tokens of each round.

A round here is a pass in which all of them go on: one that also reads a prompt, or that has fewer requests, is not
timed. So speed is that of generating, at exactly that batch size, however long prompts and outputs are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vllm_mtp.benchmarks.harness.prompts import BenchmarkPrompt


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundsRequest:
    """What an engine is asked to generate, and when it may stop: at max_seconds, but not before min_rounds were timed;
    and where nothing is left to generate."""

    prompts: Sequence[BenchmarkPrompt]
    """Begun in this order."""
    batch_size: int
    """Requests under way."""
    max_tokens: int
    """Of an output; end-of-text ends it before."""
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    """0: all tokens."""
    seed: int = 0
    repeat: bool = False
    """Whether the first prompt follows the last; else the batch shrinks at the end, and each output is there once."""
    keep: bool = False
    """Whether what is under way stays, and the next request goes on with it where it has this batch size and these
    prompts and says so too. K and module_steps may change meanwhile."""
    max_seconds: float | None = None
    """Of rounds."""
    min_rounds: int = 4
    num_speculative_tokens: int | None = None
    """K of this request, at most the engine's own; for one with a schedule alone, which None leaves as it is."""
    module_steps: int | None = None
    """Of the drafter's lookup from now on, on a CPU."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Output:
    """What one request gave, complete or not."""

    number: int
    """Of its prompt."""
    tokens: Sequence[int]
    """Of each round after the one that read the prompt: 1 and what was accepted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rounds:
    """What `EngineProcess.measure_rounds` gives."""

    seconds: Sequence[float]
    """Of each round."""
    tokens: Sequence[int]
    """Of each round, all requests together."""
    outputs: Sequence[Output]
    """In the order of their ends; with those of rounds that were not timed."""

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> "Rounds":
        """From JSON, of a pipe or a stored row."""
        outputs = [Output(**output) for output in fields["outputs"]]
        return cls(seconds=fields["seconds"], tokens=fields["tokens"], outputs=outputs)
