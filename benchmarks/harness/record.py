"""What an engine is asked for, and what it gives for each prompt; JSON, in pipes and on disk, has the same names."""

from collections.abc import Sequence
from dataclasses import dataclass

from vllm_mtp.benchmarks.harness.acceptance import Acceptance
from vllm_mtp.benchmarks.harness.prompts import NO_TASK, BenchmarkPrompt

TokenIds = Sequence[int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """Outputs for these prompts, batch_size of them at once, the next ones when the last of them is done."""

    prompts: Sequence[BenchmarkPrompt]
    max_tokens: int
    """Generated per prompt; exactly that many with ignore_eos."""
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    """0: all tokens."""
    seed: int = 0
    """Seed of the first batch's sampling; each further batch adds its first prompt's number."""
    ignore_eos: bool = True
    """End-of-text does not stop generation."""
    batch_size: int = 1
    """The engine itself runs at most `max_num_seqs` of them together."""
    is_profiled: bool = False
    """vLLM's profiler runs meanwhile, and writes a trace where the engine's `profiler_config` says."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """What one prompt gave, and which prompt it was."""

    token_ids: TokenIds
    finish_reason: str | None = None
    seconds: float = 0.0
    """Its share of its batch's time."""
    seconds_to_first_token: float | None = None
    """None where vLLM does not say."""
    rounds: Sequence[tuple[int, int]] | None = None
    """(draft tokens, accepted tokens) of each round with drafts; None from an engine without per-request metrics."""
    num_drafts: int | None = None
    """As in Acceptance, and the next two; None if nothing drafts, and in batches without per-request metrics."""
    num_draft_tokens: int | None = None
    num_accepted_tokens_per_position: Sequence[int] | None = None
    number: int = 0
    category: str = NO_TASK
    task: str = NO_TASK
    turn: int = 1
    num_prompt_tokens: int = 0

    @property
    def num_discarded_tokens(self) -> int:
        """Accepted draft tokens that came after the output's end.

        vLLM's counters have them, and so has `acceptance`; a round gives no more than what came out. Where rounds
        without a draft lie between, as with n-gram drafting, some may be missed.
        """
        counts = self.acceptance
        return max(0, counts.num_drafts + counts.num_accepted_tokens - max(0, len(self.token_ids) - 1))

    @property
    def acceptance(self) -> Acceptance:
        """The counts; those of no draft where nothing was counted."""
        return Acceptance(
            num_drafts=self.num_drafts or 0,
            num_draft_tokens=self.num_draft_tokens or 0,
            num_accepted_tokens_per_position=tuple(self.num_accepted_tokens_per_position or ()),
        )
