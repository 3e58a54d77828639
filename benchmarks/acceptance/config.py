"""What `vllm-mtp bench acceptance` measures. Light: the command line is built from it."""

from dataclasses import dataclass, field
from typing import TypeVar

from vllm_mtp.benchmarks.harness.method import DRAFTER, Method, baselines, lookups, mtp, schedule_of
from vllm_mtp.training.config import DTYPES

T = TypeVar("T")


def _setting(default: T, text: str) -> T:
    """A field with the line that says what it is, which is the help text of its flag too."""
    made: T = field(default=default, metadata={"help": text})
    return made


@dataclass(frozen=True, kw_only=True, slots=True)
class AcceptanceConfig:
    """What is measured."""

    num_speculative_tokens: tuple[int, ...] = _setting(
        (1, 2, 3, 5, 7), "every K of the drafter; no speculation is measured where it is needed for comparison"
    )
    temperature: tuple[float, ...] = _setting((0.0, 1.0), "of sampling; 0 is greedy")
    rivals: tuple[str, ...] = _setting(
        ("none",), "methods without a trained drafter, beside it: ngram, suffix, suffix-f2, or none"
    )
    lookup: tuple[str, ...] = _setting(
        (DRAFTER,), "of the drafter, every K with each: drafter (as its config.json says), off, or JSON as it has there"
    )
    schedule: tuple[str, ...] = _setting(
        ("none",), "ranges of batch sizes FIRST:LAST:K, 1:4:5 5:16:1: one more row of the drafter with K by the batch"
    )
    max_tokens: int = _setting(256, "generated per prompt; end-of-text ends an output, not where speed is measured")
    limit_per_category: int = _setting(0, "prompts of each task, taken in turn from its categories; 0: all")
    max_num_seqs: int = _setting(32, "prompts generated for together where acceptance is measured")
    dtype: str = _setting("auto", "float32, bfloat16, or auto: on a CPU the faster one by a short probe")
    speed_prompts_per_category: int = _setting(
        0, "prompts of each task whose speed is measured, in turn with an engine without speculation; 0: no speeds"
    )
    speed_batch: tuple[int, ...] = _setting((1,), "prompts at once where speed is measured")
    speed_pairs: int = _setting(1, "pairs of engines, with and without the method, that speed is measured by in turn")
    local_argmax: bool = _setting(
        False, "at temperature 0, speed is measured with use_local_argmax_reduction, which changes no draft token"
    )
    seed: int = _setting(0, "of the engines and of the first batch's sampling")
    no_chat_template: bool = _setting(False, "prompts are plain text also to a target that has a chat template")
    enforce_eager: bool = _setting(False, "no torch.compile on either side")

    def __post_init__(self) -> None:
        for name in ("num_speculative_tokens", "speed_batch"):
            values = getattr(self, name)
            if not values or min(values) < 1:
                raise ValueError(f"--{name.replace('_', '-')}: expected integers of at least 1, got {list(values)}")
        if not self.temperature or min(self.temperature) < 0:
            raise ValueError(f"--temperature: expected numbers of at least 0, got {list(self.temperature)}")
        for name, least in (("max_tokens", 2), ("max_num_seqs", 1), ("limit_per_category", 0), ("speed_pairs", 1)):
            if getattr(self, name) < least:
                raise ValueError(
                    f"--{name.replace('_', '-')}: expected an integer of at least {least}, got {getattr(self, name)}"
                )
        if self.speed_prompts_per_category < 0:
            raise ValueError(f"--speed-prompts-per-category: expected 0 or more, got {self.speed_prompts_per_category}")
        if self.dtype not in DTYPES:
            raise ValueError(f"--dtype: expected one of {', '.join(DTYPES)}, got {self.dtype}")
        baselines(self.rivals)
        lookups(self.lookup)
        schedule_of(self.schedule)

    @property
    def methods(self) -> list[Method]:
        """All that drafts, in the order of measuring."""
        settings, schedule = lookups(self.lookup), schedule_of(self.schedule)
        drafters = [mtp(k, lookup=lookup) for k in dict.fromkeys(self.num_speculative_tokens) for lookup in settings]
        if schedule:
            largest = max(k for _, _, k in schedule)
            drafters += [mtp(largest, lookup=lookup, schedule=schedule) for lookup in settings]
        return [*drafters, *baselines(self.rivals)]

    def speed_method(self, method: Method, temperature: float) -> Method:
        """How a method is served where its speed is measured."""
        if self.local_argmax and method.name == "mtp" and temperature == 0:
            k, lookup, schedule = method.num_speculative_tokens, method.lookup, method.schedule
            return mtp(k, local_argmax=True, lookup=lookup, schedule=schedule)
        return method
