"""What `vllm-mtp eval` simulates. Light: the command line is built from it."""

from dataclasses import dataclass

from vllm_mtp.common.settings import check_at_least, setting


@dataclass(frozen=True, kw_only=True, slots=True)
class SimulationConfig:
    """What is simulated."""

    num_speculative_tokens: tuple[int, ...] = setting(
        (1, 2, 3, 4, 5),
        "Every K to measure. No drafting is always run too, as the reference of greedy output.",
    )
    temperature: tuple[float, ...] = setting((0.0, 1.0), "Temperatures of sampling; 0 is greedy.")
    max_tokens: int = setting(
        96, "Tokens generated per prompt. End-of-text ends an answer in a chat template, not text that is continued."
    )
    max_prompt_tokens: int = setting(
        512, "Longer prompts of text lose their beginning; longer ones in a chat template are left out."
    )
    no_chat_template: bool = setting(False, "Take prompts as text to be continued even if the target has a template.")
    seed: int = setting(0, "Seed of sampling.")

    def __post_init__(self) -> None:
        check_at_least(self, num_speculative_tokens=1, temperature=0, max_tokens=1, max_prompt_tokens=1)
