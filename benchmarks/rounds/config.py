"""What `vllm-mtp bench round` measures. Light: the command line is built from it."""

from dataclasses import dataclass

from vllm_mtp.benchmarks.acceptance.config import AcceptanceConfig
from vllm_mtp.benchmarks.harness.method import NONE, Method, mtp
from vllm_mtp.benchmarks.harness.serving_options import ServingOptions
from vllm_mtp.common.errors import InputError
from vllm_mtp.common.settings import check_at_least, check_choices, check_temperature, setting

MOST_PASSES = 1000
"""Of the target without drafts: a trace is held in memory, 8 MB of it for each pass of a model with 30 layers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundConfig(ServingOptions):
    """What is measured."""

    num_speculative_tokens: tuple[int, ...] = setting((3,), "Every K of the drafter, beside no speculation.")
    batch_size: tuple[int, ...] = setting((1,), "Prompts generated together.")
    num_prompts: int = setting(4, "Prompts that are profiled; as many as the batch has, where that is larger.")
    max_tokens: int = setting(24, "Tokens generated for each prompt; end-of-text does not end it.")
    temperature: float = setting(0.0, "Of sampling; 0 is greedy.")
    seed: int = setting(0, "Seed of the engines and of sampling.")

    def __post_init__(self) -> None:
        check_choices(self)
        check_at_least(self, num_speculative_tokens=1, batch_size=1, num_prompts=1, max_tokens=8)
        check_temperature(self)
        passes = max(self.num_prompts // min(self.batch_size), 1) * self.max_tokens
        if passes > MOST_PASSES:
            raise InputError(
                "num_prompts",
                f"expected at most {MOST_PASSES:,} passes to trace, got {passes:,} (prompts / batch x tokens): all of "
                "them are held in memory, and a few hundred give narrow intervals",
            )

    @property
    def methods(self) -> list[Method]:
        """All that is profiled, in order."""
        is_greedy = self.temperature == 0
        return [NONE, *(mtp(k, local_argmax=is_greedy) for k in dict.fromkeys(self.num_speculative_tokens))]

    def as_acceptance(self) -> AcceptanceConfig:
        """The config by which `bench acceptance` would set up the same engines and prompts."""
        return AcceptanceConfig(
            num_speculative_tokens=self.num_speculative_tokens,
            temperature=(self.temperature,),
            max_tokens=self.max_tokens,
            max_num_seqs=max(self.batch_size),
            seed=self.seed,
            **self.serving_options(),
        )
