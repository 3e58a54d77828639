"""From counts of accepted draft tokens to acceptance length and rates, as vLLM defines them. Pure functions."""

import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Acceptance:
    """Counts over rounds of drafting and verification; add two to join them."""

    num_drafts: int
    """Drafts verified: rounds with at least one draft token."""
    num_draft_tokens: int
    """Draft tokens verified."""
    num_accepted_tokens_per_position: tuple[int, ...]
    """How often the draft token at position 0, 1, ... was accepted; one entry for each of K positions."""

    def __post_init__(self) -> None:
        counts = (self.num_drafts, *self.num_accepted_tokens_per_position)
        if list(counts) != sorted(counts, reverse=True) or min(counts) < 0:
            raise ValueError(
                "a draft token is accepted only after all before it: expected num_drafts and the counts per position "
                f"to fall, got {self.num_drafts} and {list(self.num_accepted_tokens_per_position)}"
            )

    @classmethod
    def of_rounds(cls, rounds: Iterable[tuple[int, int]], num_speculative_tokens: int) -> "Acceptance":
        """From (draft tokens, accepted tokens) of each round."""
        kept = [(drafted, accepted) for drafted, accepted in rounds if drafted]
        return cls(
            num_drafts=len(kept),
            num_draft_tokens=sum(drafted for drafted, _ in kept),
            num_accepted_tokens_per_position=tuple(
                sum(accepted > position for _, accepted in kept) for position in range(num_speculative_tokens)
            ),
        )

    def __add__(self, other: "Acceptance") -> "Acceptance":
        return self._joined(other, operator.add)

    def __sub__(self, before: "Acceptance") -> "Acceptance":
        """What was counted since."""
        return self._joined(before, operator.sub)

    def _joined(self, other: "Acceptance", join: Callable[[int, int], int]) -> "Acceptance":
        pairs = zip(self.num_accepted_tokens_per_position, other.num_accepted_tokens_per_position, strict=True)
        return Acceptance(
            num_drafts=join(self.num_drafts, other.num_drafts),
            num_draft_tokens=join(self.num_draft_tokens, other.num_draft_tokens),
            num_accepted_tokens_per_position=tuple(join(one, two) for one, two in pairs),
        )

    @property
    def num_accepted_tokens(self) -> int:
        return sum(self.num_accepted_tokens_per_position)

    @property
    def acceptance_length(self) -> float:
        """As vLLM counts: 1 + accepted / drafts, with what the last round accepted after an output's end.

        Figures leave that out: `Record.num_discarded_tokens`.
        """
        return 1 + self.num_accepted_tokens / self.num_drafts if self.num_drafts else 1.0

    @property
    def acceptance_rate(self) -> float:
        """Accepted / drafted tokens."""
        return self.num_accepted_tokens / self.num_draft_tokens if self.num_draft_tokens else 0.0

    @property
    def acceptance_rate_per_position(self) -> list[float]:
        """Accepted at each position / number of drafts: unconditional, as vLLM counts."""
        return [count / self.num_drafts if self.num_drafts else 0.0 for count in self.num_accepted_tokens_per_position]

    @property
    def conditional_acceptance_rate_per_position(self) -> list[float | None]:
        """Accepted at position i / accepted at i - 1 (at 0: / number of drafts); None where nothing came that far."""
        counts = self.num_accepted_tokens_per_position
        pairs = zip((self.num_drafts, *counts)[: len(counts)], counts, strict=True)
        return [count / before if before else None for before, count in pairs]


def total(parts: Sequence[Acceptance]) -> Acceptance:
    """All parts together.

    Raises:
        ValueError: for no parts at all.
    """
    if not parts:
        raise ValueError("expected acceptance counts of at least one prompt, got none")
    joined = parts[0]
    for part in parts[1:]:
        joined += part
    return joined
