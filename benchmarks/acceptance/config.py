"""What `vllm-mtp bench acceptance` measures. Light: the command line is built from it."""

from dataclasses import dataclass
from typing import Any

from vllm_mtp.benchmarks.harness.method import DRAFTER, Method, baselines, lookups, mtp, schedule_of
from vllm_mtp.benchmarks.harness.serving_options import ServingOptions
from vllm_mtp.common.errors import InputError
from vllm_mtp.common.settings import check_at_least, check_choices, check_share, check_temperature, setting
from vllm_mtp.training.data.chat.options import TemplateOptions

_ALL = {"top_p": 1.0, "top_k": 0}
"""Sampling from all tokens."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AcceptanceConfig(ServingOptions):
    """What is measured."""

    num_speculative_tokens: tuple[int, ...] = setting(
        (1, 2, 3, 5, 7),
        "Every K of the drafter. No speculation is also measured, as the baseline, where it is needed.",
    )
    temperature: tuple[float, ...] = setting((0.0, 1.0), "Temperatures of sampling; 0 is greedy.")
    top_p: float = setting(1.0, "Sample from the most likely tokens that have this probability together.")
    top_k: int = setting(0, "Sample from so many of the most likely tokens; with 0 from all.")
    baselines: tuple[str, ...] = setting(
        (), "Methods without a trained drafter, measured beside it: ngram, ngram-gpu, suffix, suffix-f2."
    )
    lookup: tuple[str, ...] = setting(
        (DRAFTER,),
        "Lookup of the drafter; every K is measured with each: drafter (as its config.json says), off, or JSON as in "
        "its config.json.",
    )
    schedule: tuple[str, ...] = setting(
        (),
        "Ranges of batch sizes FIRST:LAST:K, such as 1:4:5 5:16:1, for one more row of the drafter, with K by the "
        "batch size.",
    )
    turns: int = setting(
        1,
        "Most turns to ask of a conversation, one after another, with the target's own answers (greedy, without "
        "speculation) between them. With 1 it is asked once, with everything before as it is.",
    )
    max_tokens: int = setting(
        256, "Tokens generated per prompt. End-of-text ends an output, except where speed is measured."
    )
    limit_per_task: int | None = setting(
        None, "Most prompts of each task, taken in turn from its categories.", none="all"
    )
    max_num_seqs: int = setting(32, "Prompts generated together where acceptance is measured.")
    speed_prompts_per_task: int = setting(
        0,
        "Prompts of each task whose speed is measured, in turn with an engine without speculation; with 0 no speed is "
        "measured.",
    )
    speed_batch: tuple[int, ...] = setting((1,), "Prompts generated together where speed is measured.")
    speed_pairs: int = setting(
        1, "Pairs of engines, with and without the method, that speed is measured with, one pair after another."
    )
    local_argmax: bool = setting(
        False,
        "At temperature 0, measure speed with use_local_argmax_reduction: the same drafts, but of rows in 8 bits.",
    )
    seed: int = setting(0, "Seed of the engines and of the first batch's sampling.")

    def __post_init__(self) -> None:
        check_choices(self)
        check_at_least(self, num_speculative_tokens=1, max_tokens=2, limit_per_task=1, max_num_seqs=1)
        check_temperature(self)
        if self.no_chat_template and (self.turns > 1 or self.template_options != TemplateOptions()):
            raise InputError("no_chat_template", "expected no turns and no options of a template beside it")
        check_share(self, "top_p")
        check_at_least(self, turns=1, top_k=0, speed_prompts_per_task=0, speed_batch=1, speed_pairs=1)
        baselines(self.baselines)
        lookups(self.lookup)
        schedule_of(self.schedule)

    def sampling(self) -> dict[str, Any]:
        """How rows above temperature 0 are sampled; what is as it always was says nothing."""
        return {name: value for name, all_of in _ALL.items() if (value := getattr(self, name)) != all_of}

    @property
    def methods(self) -> list[Method]:
        """All that drafts, in the order of measuring."""
        settings, schedule = lookups(self.lookup), schedule_of(self.schedule)
        drafters = [mtp(k, lookup=lookup) for k in dict.fromkeys(self.num_speculative_tokens) for lookup in settings]
        if schedule:
            largest = max(k for _, _, k in schedule)
            drafters += [mtp(largest, lookup=lookup, schedule=schedule) for lookup in settings]
        return [*drafters, *baselines(self.baselines)]

    def speed_method(self, method: Method, temperature: float) -> Method:
        """How a method is served where its speed is measured."""
        if self.local_argmax and method.name == "mtp" and temperature == 0:
            k, lookup, schedule = method.num_speculative_tokens, method.lookup, method.schedule
            return mtp(k, local_argmax=True, lookup=lookup, schedule=schedule)
        return method
