"""The arms of the claims study, and which two of them each claim compares."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

GENERATED, GENERAL = "generated", "general"
FULL, DRAFT = "full", "draft"


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """One way to train a drafter; all arms see equally many tokens."""

    objective: str = "kl"
    num_steps_unrolled: int
    stages: tuple[str, ...] = (GENERATED,)
    """The text of each stage; a later one goes on from the weights of the one before."""
    vocabulary: str
    """FULL, or DRAFT: the tokens of the draft vocabulary only."""

    @property
    def name(self) -> str:
        return f"{self.objective}-k{self.num_steps_unrolled}-{'-'.join(self.stages)}-{self.vocabulary}"

    def __str__(self) -> str:
        text = ", then ".join(self.stages)
        return f"{self.objective.upper()}, K = {self.num_steps_unrolled}, {text} text, {self.vocabulary} vocabulary"


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """A claim that one arm is better than another."""

    claim: str
    statement: str
    better: Arm
    worse: Arm
    metric: str = "acceptance"
    """"acceptance": acceptance length, at every temperature; "speed": tokens per second."""


def comparisons(claims: tuple[str, ...], num_steps_unrolled: int, vocabulary: str) -> list[Comparison]:
    """What the claims of these names compare.

    Args:
        claims: names out of claims_config.CLAIMS.
        num_steps_unrolled: K of the arms that unroll.
        vocabulary: of all arms but those of the vocabulary claim.
    """
    base = Arm(num_steps_unrolled=num_steps_unrolled, vocabulary=vocabulary)
    general, finetuned = replace(base, stages=(GENERAL,)), replace(base, stages=(GENERAL, GENERATED))
    full, draft = replace(base, vocabulary=FULL), replace(base, vocabulary=DRAFT)
    everything = (
        ("objective", "KL accepts more than LM loss, on generated text", base, replace(base, objective="lm")),
        ("objective-general", "the same on general text", general, replace(general, objective="lm")),
        ("pretraining", "general then generated text accepts more than general alone", finetuned, general),
        ("pretraining", "general then generated text accepts more than generated alone", finetuned, base),
        (
            "unrolling",
            f"K = {num_steps_unrolled} accepts more than K = 1",
            base,
            replace(base, num_steps_unrolled=1),
        ),
        ("vocabulary", "the full vocabulary accepts more than the draft vocabulary", full, draft),
    )
    found = [Comparison(claim=c, statement=s, better=b, worse=w) for c, s, b, w in everything]
    statement = "the draft vocabulary gives more tokens/s than the full one"
    found.append(Comparison(claim="vocabulary", statement=statement, better=draft, worse=full, metric="speed"))
    return [comparison for comparison in found if comparison.claim in claims]


def arms_of(comparisons: Sequence[Comparison]) -> list[Arm]:
    """Every arm once, in the order of the claims."""
    return list(dict.fromkeys(arm for comparison in comparisons for arm in (comparison.better, comparison.worse)))
