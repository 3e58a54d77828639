"""TrainConfig: everything that decides the outcome of a training run."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

OBJECTIVES = ("kl", "lm")
OPTIMIZERS = ("muon", "adamw")
DTYPES = ("auto", "float32", "bfloat16")
NUM_HELD_OUT_STEPS = 5
"""Draft steps measured on held-out text, at least."""
_DEFAULT_LEARNING_RATE = {"muon": 0.02, "adamw": 0.001}


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """One training run; `vllm-mtp train` has a flag for every field."""

    tokens: int = 2_000_000
    """Target positions to see; data that is smaller repeats."""
    data_tokens: int = 0
    """Read no more than this many tokens of the data, which then repeat; 0 reads as many as are seen."""
    num_steps_unrolled: int = 3
    """K: draft steps chained in training, each fed with the module's own hidden states of the one before."""
    single_step_fraction: float = 0.6
    """Share of the steps, at the start, with one draft step instead of K: cheaper, and the later ones build on it."""
    step_weight_decay: float = 0.8
    """Draft step k weighs step_weight_decay^(k-1) in the loss; the weights are normalised to sum 1."""
    objective: str = "kl"
    """"kl": forward KL from the target's distribution; "lm": cross entropy with the text's own next token."""
    answers_only: bool = False
    """Of conversations, count what the target wrote and not the prompts."""
    sequence_length: int = 512
    """Tokens of a row of text, and most of a conversation; train on contexts as long as those that will be served."""
    batch_size: int = 8
    """Rows of that length per step; shorter conversations are more of them, for about as many tokens."""
    optimizer: str = "muon"
    """"muon": Muon on matrices and AdamW on the rest; "adamw": AdamW on everything."""
    learning_rate: float = 0.0
    """Peak learning rate of the matrices; 0: 0.02 for Muon, 0.001 for AdamW. The rest gets a fifth of Muon's."""
    warmup_steps: int = 20
    """Steps over which the learning rate rises from zero."""
    decay_fraction: float = 0.6
    """Share of the steps, at the end, over which the learning rate falls linearly to zero."""
    intermediate_size: int = 0
    """Width of the module's MLP; 0 takes the target's."""
    num_attention_heads: int = 0
    """Query heads of the module; 0 takes the target's."""
    num_key_value_heads: int = 0
    """Key-value heads of the module; 0 takes the target's."""
    qk_norm: bool = False
    """RMSNorm of every query and key head."""
    dtype: str = "auto"
    """Of the matrix products; "auto" takes bfloat16 on a GPU, and on a CPU what a short probe shows to be faster."""
    seed: int = 0
    """Decides initial weights and the order of the data."""
    checkpoint_every: int = 100
    """Steps between checkpoints; a killed run goes on from the last one."""

    def __post_init__(self) -> None:
        for name, allowed in (("objective", OBJECTIVES), ("optimizer", OPTIMIZERS), ("dtype", DTYPES)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}: expected one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        for name in ("tokens", "num_steps_unrolled", "batch_size", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected a positive integer, got {getattr(self, name)}")
        shortest = 2 * max(self.num_steps_unrolled, NUM_HELD_OUT_STEPS) + 2
        if self.sequence_length < shortest:
            raise ValueError(
                f"sequence_length: expected at least {shortest} for {self.num_steps_unrolled} draft steps unrolled and "
                f"{NUM_HELD_OUT_STEPS} measured, got {self.sequence_length}"
            )
        if self.learning_rate < 0 or not 0 < self.step_weight_decay <= 1 or not 0 <= self.decay_fraction <= 1:
            raise ValueError(
                "expected learning_rate >= 0, 0 < step_weight_decay <= 1 and 0 <= decay_fraction <= 1, got "
                f"{self.learning_rate}, {self.step_weight_decay}, {self.decay_fraction}"
            )
        if not 0 <= self.single_step_fraction < 1 or self.data_tokens < 0:
            raise ValueError(
                "expected 0 <= single_step_fraction < 1 and data_tokens >= 0, got "
                f"{self.single_step_fraction}, {self.data_tokens}"
            )
        if self.num_steps < 1:
            raise ValueError(
                f"tokens: expected at least one batch of {self.batch_size} x {self.sequence_length} tokens, "
                f"got {self.tokens}"
            )

    @property
    def num_steps(self) -> int:
        return self.tokens // (self.batch_size * self.sequence_length)

    @property
    def peak_learning_rate(self) -> float:
        return self.learning_rate or _DEFAULT_LEARNING_RATE[self.optimizer]

    def step_weights(self, num_steps: int) -> list[float]:
        """Weight of each of the first num_steps draft steps in the loss; they sum to 1."""
        powers = [self.step_weight_decay**k for k in range(num_steps)]
        return [power / sum(powers) for power in powers]

    def steps_unrolled_at(self, step: int) -> int:
        """Draft steps chained at a step of training: 1 at first, then num_steps_unrolled."""
        return 1 if step < self.single_step_fraction * self.num_steps else self.num_steps_unrolled

    def learning_rate_factor(self, step: int) -> float:
        """Warmup, then constant, then linear to zero: what the peak learning rate is multiplied by."""
        warmup = min(1.0, (step + 1) / max(1, self.warmup_steps))
        decay = min(1.0, (self.num_steps - step) / max(1.0, self.decay_fraction * self.num_steps))
        return warmup * decay

    def differences(self, other: dict[str, Any]) -> list[str]:
        """Fields in which a stored config differs, as "name: stored, now"."""
        return differences((field.name for field in fields(self)), other, asdict(self))


def differences(names: Iterable[str], stored: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Settings of these names that are not what they were, as "name: stored, now"."""
    return [f"{n}: {stored.get(n)!r}, now {now.get(n)!r}" for n in names if stored.get(n) != now.get(n)]
