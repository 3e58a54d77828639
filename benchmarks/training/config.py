"""What `vllm-mtp bench training` measures. Imports no torch: the command line is built from it."""

from dataclasses import dataclass

from vllm_mtp.common.settings import check_at_least, check_choices, setting
from vllm_mtp.training.config import COMPILE


@dataclass(frozen=True, kw_only=True, slots=True)
class StepConfig:
    """The shapes of a step; the command has a flag for every field."""

    num_steps_unrolled: tuple[int, ...] = setting((1, 3), "K: draft steps chained; a step is timed for each.")
    sequence_length: int = setting(512, "Tokens of a row.")
    batch_size: int = setting(8, "Rows of a step.")
    draft_vocab_size: int | None = setting(None, "Tokens of a draft vocabulary, the first ones.", none="all")
    repeats: int = setting(5, "Times that each part is timed, after one that is not.")
    compile: str = setting(
        "auto", "Time the step with module and loss compiled too: on, off, or auto, on a GPU.", choices=COMPILE
    )
    dtype: str = setting("auto", "As of `vllm-mtp train`.", choices=("auto", "float32", "bfloat16", "float16"))

    def __post_init__(self) -> None:
        check_choices(self)
        check_at_least(self, num_steps_unrolled=1, batch_size=1, repeats=1, draft_vocab_size=1)
        check_at_least(self, sequence_length=2 * max(self.num_steps_unrolled) + 2)
