"""What `vllm-mtp tune` measures and chooses from. Light: the command line is built from it."""

from dataclasses import dataclass

from vllm_mtp.benchmarks.harness.serving_options import ServingOptions
from vllm_mtp.common.errors import InputError
from vllm_mtp.common.settings import check_at_least, check_choices, check_share, check_temperature, setting

LEAST_TURNS = 2
"""One alone would say nothing of how turns differ."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TuneConfig(ServingOptions):
    """What is measured, and what is chosen from."""

    num_speculative_tokens: tuple[int, ...] = setting((1, 2, 3, 5), "Every K to choose from, beside no speculation.")
    lookup: str = setting("both", "Lookup to choose from.", choices=("both", "on", "off"))
    module_steps: tuple[int, ...] = setting(
        (1, 2, 3), "Every module_steps of lookup to choose from, on a CPU; elsewhere it changes nothing."
    )
    batch_size: tuple[int, ...] = setting((1, 2, 4, 8, 16), "Requests at once, each of which is measured.")
    for_batch_size: int = setting(
        1, "The one that matters most: K and lookup are chosen for it, and then a K for each of the others."
    )
    temperature: float = setting(0.0, "Of sampling; 0 is greedy.")
    top_p: float = setting(1.0, "Sample from the most likely tokens that have this probability together.")
    top_k: int = setting(0, "Sample from so many of the most likely tokens; with 0 from all.")
    max_tokens: int = setting(96, "Most tokens of an output; end-of-text ends it before.")
    max_prompts: int = setting(128, "Most prompts. Every second one is kept for the verification.")
    seconds: float = setting(
        0.25,
        "Each setting has its turn for so many seconds, and for at least four rounds; where it is timed again for "
        "eight times as long, in slices of half of it.",
    )
    turns: int = setting(
        6, "Turns of the verification, and at first of what leads; half as many of each setting before."
    )
    precision: float = setting(
        0.05,
        "What leads is timed again, in turn with no speculation, until its cost is known to this share to either side, "
        "by its 95% interval; so is the verification.",
    )
    most_turns: int = setting(30, "Most turns of that.")
    tolerance: float = setting(0.03, "Speeds that differ by less than this share are equal: the simpler setting wins.")
    max_minutes: float | None = setting(
        15.0,
        "Two turns of each setting, and of the verification, are always measured; further ones of settings end after "
        "60% of so many minutes, of the verification after all of them. Acceptance is counted to the end.",
        none="no limit",
    )
    draft_vocab_size: int | None = setting(
        None, "Without DRAFT_DIR: tokens that the drafter to be trained would draft.", none="all"
    )
    seed: int = setting(0, "Seed of the engines and of sampling.")

    def __post_init__(self) -> None:
        check_choices(self)
        check_share(self, "top_p")
        check_at_least(
            self, num_speculative_tokens=1, module_steps=1, batch_size=1, for_batch_size=1, turns=LEAST_TURNS
        )
        check_at_least(self, top_k=0, max_tokens=2, max_prompts=2, seconds=0, tolerance=0)
        check_temperature(self)
        check_at_least(self, precision=0, most_turns=LEAST_TURNS)
        if self.max_minutes is not None and self.max_minutes <= 0:
            raise InputError("max_minutes", f"expected a number above 0, got {self.max_minutes:g}")
        check_at_least(self, draft_vocab_size=1)
        if self.for_batch_size not in self.batch_size:
            raise InputError("for_batch_size", f"expected one of {' '.join(map(str, self.batch_size))}, as measured")
