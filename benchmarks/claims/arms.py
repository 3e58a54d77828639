"""The arms of the claims study, and which two of them each claim compares."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from vllm_mtp.benchmarks.claims.config import ClaimsConfig
from vllm_mtp.training.config import TrainConfig

GENERATED, GENERAL = "generated", "general"
FULL, DRAFT, CUT = "full", "draft", "cut"
MTP, EAGLE3 = "mtp", "eagle3"
_CHECKPOINTS = 10
"""Of a run that picks the best of them."""
Settings = tuple[tuple[str, Any], ...]
"""(name, value) of fields of TrainConfig, or of Eagle3Settings where the drafter is EAGLE3."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """One way to train a drafter; all arms see equally many tokens."""

    drafter: str = MTP
    """MTP; EAGLE3: speculators' (`eagle3.py`)."""
    objective: str = "kl"
    num_steps_unrolled: int
    stages: tuple[str, ...] = (GENERATED,)
    """The text of each stage; a later one goes on from the weights of the one before."""
    vocabulary: str
    """FULL; DRAFT: the tokens of the draft vocabulary only; CUT: trained on all, then cut to the draft vocabulary."""
    settings: Settings = ()
    """What else is not as in the other arms."""
    last_stage: Settings = ()
    """What is not as in the stages before."""

    @property
    def name(self) -> str:
        parts = [] if self.drafter == MTP else [self.drafter]
        parts += [self.objective, f"k{self.num_steps_unrolled}", *self.stages, self.vocabulary]
        parts += [f"{name}-{value}" for name, value in self.settings]
        return "-".join(parts + [f"then-{name}-{value}" for name, value in self.last_stage])

    def __str__(self) -> str:
        stages = ", then ".join(self.stages)
        parts = [] if self.drafter == MTP else ["EAGLE-3"]
        parts += [self.objective.upper(), f"K = {self.num_steps_unrolled}", f"{stages} text"]
        parts += [f"{self.vocabulary} vocabulary", *(f"{name} {value}" for name, value in self.settings)]
        return ", ".join(parts + [f"{name} {value} in the last stage" for name, value in self.last_stage])

    def train_settings(self, stage: int) -> dict[str, Any]:
        """Fields of TrainConfig in which a stage, from 0, is not as the study's config says."""
        found = {"objective": self.objective, "num_steps_unrolled": self.num_steps_unrolled, **dict(self.settings)}
        return found | dict(self.last_stage if stage == len(self.stages) - 1 else ())


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """A claim that one arm is better than another."""

    claim: str
    statement: str
    better: Arm
    worse: Arm
    metric: str = "acceptance"
    """"acceptance": acceptance length, at every temperature; "speed": tokens per second."""
    min_prompt_tokens: int = 0
    """Shorter prompts are left out."""


def comparisons(config: ClaimsConfig, vocabulary: str, intermediate_size: int) -> list[Comparison]:
    """What the claims of a study compare.

    Args:
        config: its claims, and K of the arms that unroll.
        vocabulary: of all arms but those of the claims about vocabularies.
        intermediate_size: width of the target's MLP.
    """
    base = Arm(num_steps_unrolled=config.num_steps_unrolled, vocabulary=vocabulary)
    found = [*_of_the_paper(base), *_of_the_recipe(base, config, intermediate_size), *_of_peers(base)]
    return [comparison for comparison in found if comparison.claim in config.claims]


def _of_the_paper(base: Arm) -> list[Comparison]:
    general, finetuned = replace(base, stages=(GENERAL,)), replace(base, stages=(GENERAL, GENERATED))
    full, draft = replace(base, vocabulary=FULL), replace(base, vocabulary=DRAFT)
    everything = (
        ("objective", "KL accepts more than LM loss, on generated text", base, replace(base, objective="lm")),
        ("objective-general", "the same on general text", general, replace(general, objective="lm")),
        ("pretraining", "general then generated text accepts more than general alone", finetuned, general),
        ("pretraining", "general then generated text accepts more than generated alone", finetuned, base),
        (
            "unrolling",
            f"K = {base.num_steps_unrolled} accepts more than K = 1",
            base,
            replace(base, num_steps_unrolled=1),
        ),
        ("vocabulary", "the full vocabulary accepts more than the draft vocabulary", full, draft),
    )
    found = [Comparison(claim=c, statement=s, better=b, worse=w) for c, s, b, w in everything]
    statement = "the draft vocabulary gives more tokens/s than the full one"
    return [*found, Comparison(claim="vocabulary", statement=statement, better=draft, worse=full, metric="speed")]


def _of_the_recipe(base: Arm, config: ClaimsConfig, intermediate_size: int) -> list[Comparison]:
    """One setting of training changed at a time, against the study's own."""

    def having(**settings: Any) -> Arm:
        return replace(base, settings=tuple(settings.items()))

    finish = replace(base, stages=base.stages * 2)
    rate, k = TrainConfig().peak_learning_rate, base.num_steps_unrolled
    everything: tuple[tuple[str, str, Arm], ...] = (
        ("step-tokens", "drafted tokens at steps 2 to K in place of the text's", having(step_tokens="drafted")),
        ("step-weights", "equal weights of the steps", having(step_weight_decay=1.0)),
        ("tv", "TV in place of KL", replace(base, objective="tv")),
        ("tv", "KL, then TV", replace(finish, last_stage=(("objective", "tv"),))),
        ("lk", "LK in place of KL", replace(base, objective="lk")),
        ("e2e-tv", "end-to-end TV in place of KL", replace(base, objective="e2e-tv")),
        ("e2e-tv", "KL, then end-to-end TV", replace(finish, last_stage=(("objective", "e2e-tv"),))),
        ("loss-on", "the loss on answers alone, prompts read and not counted", having(loss_on="answers")),
        ("single-step", "K draft steps from the start", having(single_step_fraction=0.0)),
        ("steps", f"K = {k + 1}", replace(base, num_steps_unrolled=k + 1)),
        ("steps", f"K = {k + 2}", replace(base, num_steps_unrolled=k + 2)),
        ("learning-rate", "half the learning rate", having(learning_rate=rate / 2)),
        ("learning-rate", "twice the learning rate", having(learning_rate=rate * 2)),
        ("batch-size", "half the batch", having(batch_size=max(1, config.batch_size // 2))),
        ("batch-size", "twice the batch", having(batch_size=config.batch_size * 2)),
    )
    found = [(claim, what, better, base) for claim, what, better in everything]

    def without_last_layer(**settings: Any) -> Arm:
        """Settings that the target's last layer may not fit are compared from the fit."""
        return having(module_init="fitted", **settings)

    fitted, normed, plain = without_last_layer(), without_last_layer(qk_norm=True), without_last_layer(qk_norm=False)
    found += [
        ("last-layer", "a start from the target's last layer than from a fitted projection", base, fitted),
        ("qk-norm", "normalised queries and keys", normed, plain),
        ("width", "half the MLP's width", without_last_layer(intermediate_size=intermediate_size // 2), fitted),
        ("width", "twice the MLP's width", without_last_layer(intermediate_size=intermediate_size * 2), fitted),
    ]
    draft = replace(base, vocabulary=DRAFT)
    cut = "a vocabulary that is cut after training than with one cut before"
    found.append(("cut", cut, replace(draft, vocabulary=CUT), draft))
    row = config.sequence_length // 4  # as many tokens in a step
    short = having(sequence_length=row, batch_size=config.batch_size * 4)
    found.append(("rows", f"rows of up to {config.sequence_length} tokens than of up to {row}", base, short))
    often = max(1, config.tokens // (_CHECKPOINTS * config.batch_size * config.sequence_length))
    picked = having(keep="best", checkpoint_every=often)
    found.append(("keep", "the checkpoint of the best held-out acceptance than with the last one", picked, base))
    fit = "a projection that is fitted before training than with random weights"
    found.append(("projection-init", fit, fitted, having(module_init="random")))
    all_prompts = [
        Comparison(claim=c, statement=f"more is accepted with {what}", better=better, worse=worse)
        for c, what, better, worse in found
    ]
    beyond = [replace(one, min_prompt_tokens=row) for one in all_prompts if one.claim == "rows"]
    return [*all_prompts, *beyond]


def _of_peers(base: Arm) -> list[Comparison]:
    """Another drafter by another trainer, with its own settings and with this recipe's learning rate."""
    usual = replace(base, drafter=EAGLE3)
    rate = TrainConfig().peak_learning_rate
    arms = (
        ("eagle3", "its defaults", usual),
        ("eagle3-rate", f"Muon at {rate}", replace(usual, settings=(("muon_learning_rate", rate),))),
    )
    what = "more is accepted than of EAGLE-3 by speculators"
    return [Comparison(claim=c, statement=f"{what}, {how}", better=base, worse=arm) for c, how, arm in arms]


def arms_of(comparisons: Sequence[Comparison]) -> list[Arm]:
    """Every arm once, in the order of the claims."""
    return list(dict.fromkeys(arm for comparison in comparisons for arm in (comparison.better, comparison.worse)))
