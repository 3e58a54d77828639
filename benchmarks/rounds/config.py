"""What `vllm-mtp bench round` measures. Light: the command line is built from it."""

from dataclasses import dataclass

from vllm_mtp.benchmarks.acceptance.config import AcceptanceConfig
from vllm_mtp.benchmarks.harness.method import NONE, Method, mtp
from vllm_mtp.common.engine_options import EngineOptions
from vllm_mtp.common.settings import check_at_least, check_choices, setting
from vllm_mtp.training.config import DTYPES
from vllm_mtp.training.data.chat.options import TemplateOptions


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundConfig:
    """What is measured."""

    num_speculative_tokens: tuple[int, ...] = setting((3,), "Every K of the drafter, beside no speculation.")
    batch_size: tuple[int, ...] = setting((1,), "Prompts generated together.")
    num_prompts: int = setting(4, "Prompts that are profiled; as many as the batch has, where that is larger.")
    max_tokens: int = setting(24, "Tokens generated for each prompt; end-of-text does not end it.")
    temperature: float = setting(0.0, "Of sampling; 0 is greedy.")
    dtype: str = setting("auto", "auto: on a CPU the faster one, by a short probe.", choices=DTYPES)
    seed: int = setting(0, "Seed of the engines and of sampling.")
    no_chat_template: bool = setting(False, "Take prompts as plain text even if the target has a chat template.")
    enforce_eager: bool = setting(False, "Run without torch.compile, on either side.")
    template_options: TemplateOptions = TemplateOptions()
    engine_options: EngineOptions = EngineOptions()

    def __post_init__(self) -> None:
        check_choices(self)
        check_at_least(self, num_speculative_tokens=1, batch_size=1, num_prompts=1, max_tokens=8, temperature=0)

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
            dtype=self.dtype,
            seed=self.seed,
            no_chat_template=self.no_chat_template,
            enforce_eager=self.enforce_eager,
            template_options=self.template_options,
            engine_options=self.engine_options,
        )
