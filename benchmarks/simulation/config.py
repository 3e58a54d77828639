"""What `vllm-mtp eval` simulates. Light: the command line is built from it."""

from dataclasses import asdict, dataclass
from typing import Any

from vllm_mtp.common.errors import InputError
from vllm_mtp.common.settings import check_at_least, check_share, setting
from vllm_mtp.training.data.chat.options import TemplateOptions


@dataclass(frozen=True, kw_only=True, slots=True)
class SimulationConfig:
    """What is simulated."""

    num_speculative_tokens: tuple[int, ...] = setting(
        (1, 2, 3, 4, 5),
        "Every K to measure. No drafting is always run too, as the reference of greedy output.",
    )
    temperature: tuple[float, ...] = setting((0.0, 1.0), "Temperatures of sampling; 0 is greedy.")
    top_p: float = setting(1.0, "Sample from the most likely tokens that have this probability together.")
    top_k: int = setting(0, "Sample from so many of the most likely tokens; with 0 from all.")
    max_tokens: int = setting(
        96, "Tokens generated per prompt. End-of-text ends an answer in a chat template, not text that is continued."
    )
    max_prompt_tokens: int = setting(
        512, "Longer prompts of text lose their beginning; longer ones in a chat template are left out."
    )
    no_chat_template: bool = setting(False, "Take prompts as text to be continued even if the target has a template.")
    seed: int = setting(0, "Seed of sampling.")
    template: TemplateOptions = TemplateOptions()

    def __post_init__(self) -> None:
        check_at_least(self, num_speculative_tokens=1, temperature=0, max_tokens=1, max_prompt_tokens=1)
        check_at_least(self, top_k=0)
        check_share(self, "top_p")
        if self.no_chat_template and self.template != TemplateOptions():
            raise InputError("no_chat_template", "expected no options of a template beside it")

    def stored(self) -> dict[str, Any]:
        """What the figures' file keeps of it; of the template what was given, by content."""
        options = self.template.stored()
        own = {name: value for name, value in asdict(self).items() if name != "template"}
        return own | ({"template": options} if options else {})
