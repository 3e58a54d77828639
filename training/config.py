"""TrainConfig: everything that decides the outcome of a training run."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from vllm_mtp.common.errors import InputError
from vllm_mtp.common.settings import check_at_least, check_choices, setting

OBJECTIVES = ("kl", "lm", "tv", "lk", "e2e-tv")
STEP_TOKENS = ("text", "drafted")
MODULE_INIT = ("random", "fitted", "last-layer")
OPTIMIZERS = ("muon", "adamw")
LOSS_ON = ("all", "answers")
HIDDEN_STATES = ("transformers", "vllm")
KEEP = ("last", "best")
DTYPES = ("auto", "float32", "bfloat16", "float16")
COMPILE = ("auto", "on", "off")
NUM_HELD_OUT_STEPS = 5
"""Draft steps measured on held-out text, at least."""
NUM_SPECULATIVE_TOKENS = 3
"""Tokens drafted a round where acceptance length is measured on held-out text."""
_ONCE_ZERO = ("data_tokens", "learning_rate", "intermediate_size", "num_attention_heads", "num_key_value_heads")
_RENAMED = {"projection_init": "module_init"}
_DEFAULT_LEARNING_RATE = {"muon": 0.02, "adamw": 0.001}


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """One training run; `vllm-mtp train` has a flag for every field."""

    tokens: int = setting(2_000_000, "Target positions to see; data that is smaller repeats.")
    data_tokens: int | None = setting(
        None, "Most tokens to read of the data, which then repeat.", none="as many as are seen"
    )
    num_steps_unrolled: int = setting(
        3, "K: draft steps chained in training, each fed with the module's own hidden states of the step before."
    )
    single_step_fraction: float = setting(
        0.6, "Share of the steps, at the start, with one draft step instead of K, which is cheaper."
    )
    step_weight_decay: float = setting(
        0.8, "Draft step k weighs step_weight_decay^(k-1) in the loss; the weights are normalised to sum 1."
    )
    step_tokens: str = setting(
        "text",
        "What draft steps after the first are fed with: the text's tokens, or the module's own most likely token of "
        "the step before, as in serving. What they are to predict stays the text's.",
        choices=STEP_TOKENS,
    )
    objective: str = setting(
        "kl",
        "kl: forward KL from the target's distribution. lm: cross entropy with the text's own next token. tv: total "
        "variation, the share of drafted tokens that sampling rejects. lk: minus the log of the share it accepts. "
        "e2e-tv: tv of a draft step together with those before it.",
        choices=OBJECTIVES,
    )
    loss_on: str | None = setting(
        None,
        "What counts in conversations: all tokens, or the answers.",
        choices=LOSS_ON,
        none="all of what the target wrote itself, answers of what others wrote",
    )
    sequence_length: int = setting(
        512, "Tokens of a row of text, and the most of a conversation. Choose contexts as long as those to be served."
    )
    batch_size: int = setting(
        8, "Rows of that length per step; of shorter conversations more, for about as many tokens."
    )
    optimizer: str = setting(
        "muon", "muon: Muon on matrices and AdamW on the rest. adamw: AdamW on everything.", choices=OPTIMIZERS
    )
    learning_rate: float | None = setting(
        None,
        "Peak learning rate of the matrices. With Muon the rest gets a fifth of it.",
        none="0.02 for muon, 0.001 for adamw",
    )
    warmup_steps: int = setting(20, "Steps over which the learning rate rises from zero.")
    decay_fraction: float = setting(
        0.6, "Share of the steps, at the end, over which the learning rate falls linearly to zero."
    )
    intermediate_size: int | None = setting(None, "Width of the module's MLP.", none="the target's")
    num_attention_heads: int | None = setting(None, "Query heads of the module.", none="the target's")
    num_key_value_heads: int | None = setting(None, "Key-value heads of the module.", none="the target's")
    module_init: str = setting(
        "last-layer",
        "What the weights start from. last-layer: the layer and the final norm as copies of the target's last, where "
        "that computes what the module's does, and the projection fitted to what it reads. fitted: the projection and "
        "the final norm fitted to the target's next hidden state. random. `initial` comes before all.",
        choices=MODULE_INIT,
        old=("projection_init",),
    )
    qk_norm: bool | None = setting(
        None, "Normalise every query and key head (RMSNorm).", none="as the target's last layer does"
    )
    attention_bias: bool | None = setting(
        None, "Biases of the four projections of attention.", none="as the target's last layer has them"
    )
    dtype: str = setting(
        "auto",
        "Of matrix products. auto: bfloat16 on a GPU (float16 where it has none); on a CPU the faster one, by a short "
        "probe. Beside a target in float16 the module's own products are in float32.",
        choices=DTYPES,
    )
    hidden_states: str = setting(
        "transformers",
        "What computes the target's hidden states. vllm: a target that transformers cannot load, or as it is served; "
        "needs a store.",
        choices=HIDDEN_STATES,
    )
    seed: int = setting(0, "Seed of initial weights and of the order of the data.")
    checkpoint_every: int = setting(
        100,
        "Steps between checkpoints; a killed run goes on from the last one. Where writing one takes a second or more, "
        "as many are left out as it takes to spend no more than a twentieth of the time on it.",
    )
    keep: str = setting(
        "last",
        "Which checkpoint becomes the drafter: the last, or that of the best held-out acceptance length.",
        choices=KEEP,
    )

    def __post_init__(self) -> None:
        check_choices(self)
        check_at_least(self, tokens=1, data_tokens=1, num_steps_unrolled=1, batch_size=1, checkpoint_every=1)
        check_at_least(self, intermediate_size=1, num_attention_heads=1, num_key_value_heads=1)
        shortest = 2 * max(self.num_steps_unrolled, NUM_HELD_OUT_STEPS) + 2
        if self.sequence_length < shortest:
            raise InputError(
                "sequence_length",
                f"expected at least {shortest} for {self.num_steps_unrolled} draft steps unrolled and "
                f"{NUM_HELD_OUT_STEPS} measured, got {self.sequence_length}",
            )
        if self.learning_rate is not None and not self.learning_rate > 0:
            raise InputError("learning_rate", f"expected a number above 0, got {self.learning_rate}")
        if not 0 < self.step_weight_decay <= 1:
            raise InputError("step_weight_decay", f"expected above 0 and at most 1, got {self.step_weight_decay}")
        if not 0 <= self.decay_fraction <= 1:
            raise InputError("decay_fraction", f"expected 0 to 1, got {self.decay_fraction}")
        if not 0 <= self.single_step_fraction < 1:
            raise InputError("single_step_fraction", f"expected 0 or more and below 1, got {self.single_step_fraction}")
        if self.num_steps < 1:
            raise InputError(
                "tokens",
                f"expected at least one batch of {self.batch_size} x {self.sequence_length} tokens, got {self.tokens}",
            )

    @property
    def is_served(self) -> bool:
        """Whether vLLM computes the target's hidden states."""
        return self.hidden_states == "vllm"

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

    def is_last(self, step: int) -> bool:
        """Whether a step, counted from 0, is the last one."""
        return step + 1 == self.num_steps

    def steps_unrolled_at(self, step: int) -> int:
        """Draft steps chained at a step of training: 1 at first, then num_steps_unrolled."""
        return 1 if step < self.single_step_fraction * self.num_steps else self.num_steps_unrolled

    def learning_rate_factor(self, step: int) -> float:
        """Warmup, then constant, then linear to zero: what the peak learning rate is multiplied by."""
        warmup = min(1.0, (step + 1) / max(1, self.warmup_steps))
        decay = min(1.0, (self.num_steps - step) / max(1.0, self.decay_fraction * self.num_steps))
        return warmup * decay

    def differences(self, other: dict[str, Any]) -> list[str]:
        """Fields in which a stored config differs, as "name: stored, now".

        0 once stood for today's None, and `answers_only` for a loss on answers; what was not stored yet had its first
        choice, or was false. Where the last module is kept, how often a checkpoint is written
        decides only what is measured on the way.
        """
        now = asdict(self)
        first = {
            "hidden_states": HIDDEN_STATES,
            "keep": KEEP,
            "step_tokens": STEP_TOKENS,
            "module_init": MODULE_INIT,
        }
        stored: dict[str, Any] = {name: choices[0] for name, choices in first.items()} | {"attention_bias": False}
        stored |= {_RENAMED.get(n, n): None if value == 0 and n in _ONCE_ZERO else value for n, value in other.items()}
        if stored.get("answers_only"):
            stored["loss_on"] = "answers"
        passed_over = "checkpoint_every" if stored["keep"] == now["keep"] == "last" else ""
        return differences((name for name in now if name != passed_over), stored, now)


def differences(names: Iterable[str], stored: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Settings of these names that are not what they were, as "name: stored, now"."""
    return [f"{n}: {stored.get(n)!r}, now {now.get(n)!r}" for n in names if stored.get(n) != now.get(n)]
