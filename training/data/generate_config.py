"""GenerateConfig: what decides the data that `vllm-mtp generate` makes. Light: the command line is built from it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from vllm_mtp.common.engine_options import ROOM, EngineOptions
from vllm_mtp.common.errors import InputError
from vllm_mtp.common.settings import check_at_least, check_choices, check_temperature, setting
from vllm_mtp.training.config import DTYPES, differences
from vllm_mtp.training.data.chat.dialog import ANSWERED
from vllm_mtp.training.data.chat.options import TemplateOptions

_RENAMED = {"temperatures": "temperature"}
_BEFORE = {"turns": "last", "near_duplicates": 0.7}
"""What runs were made with before they said so."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerateConfig:
    """What decides the data; `vllm-mtp generate` has a flag for every field."""

    self_prompts: int = setting(0, "User turns that the target writes itself, besides those of the files.")
    max_prompts: int | None = setting(None, "Prompts to read of the files, the first ones.", none="all")
    temperature: tuple[float, ...] = setting(
        (0.0, 0.6, 1.0), "Temperatures of the answers, in turn; 0 is greedy.", old=("temperatures",)
    )
    # Unlike a nucleus (top_p) it needs no sort of the vocabulary, which on a CPU takes longer than the model.
    min_p: float = setting(0.05, "Least probability of a sampled token, as a share of the most likely token's.")
    max_tokens: int = setting(256, "Most tokens of an answer.")
    max_user_tokens: int = setting(
        96, "Most tokens that the target writes of a user turn; a turn that does not end by itself is dropped."
    )
    max_model_len: int | None = setting(
        None,
        "Most tokens of a conversation, its last answer included; longer prompts are dropped.",
        none="the target's context, at most 2,048",
    )
    turns: str = setting(
        "last",
        "What the target answers of conversations that hold answers. last: the last message, with what was said before "
        "as it is. all: every turn, and all answers are the target's, but for calls of tools, whose results are given.",
        choices=ANSWERED,
    )
    near_duplicates: float = setting(
        0.7,
        "Most that an answer may share with an earlier one, as a share of its runs of eight tokens; 1 keeps all but "
        "exact duplicates.",
    )
    skip_bad: bool = setting(False, "Leave out prompts that cannot be used, and count them.")
    batch_size: int | None = setting(
        None, "Conversations of a batch, the unit that is written and resumed.", none="4,096 on a GPU, 384 elsewhere"
    )
    max_num_seqs: int | None = setting(
        None, "Conversations that vLLM generates together.", none="512 on a GPU, 128 elsewhere"
    )
    dtype: str = setting(
        "auto",
        "auto: the checkpoint's dtype on a GPU; on a CPU the faster one, by a short probe.",
        choices=DTYPES,
    )
    seed: int = setting(0, "Seed of the order of the prompts and of sampling.")
    template: TemplateOptions = TemplateOptions()
    engine_options: EngineOptions = EngineOptions()

    def __post_init__(self) -> None:
        check_choices(self)
        check_at_least(self, self_prompts=0, max_tokens=1, max_user_tokens=1)
        check_temperature(self)
        check_at_least(self, batch_size=1, max_num_seqs=1, max_prompts=1)
        if not 0 <= self.min_p < 1:
            raise InputError("min_p", f"expected 0 or more and below 1, got {self.min_p}")
        if not 0 <= self.near_duplicates <= 1:
            raise InputError("near_duplicates", f"expected 0 to 1, got {self.near_duplicates}")
        if self.max_model_len is not None and self.max_model_len <= self.max_tokens:
            raise InputError(
                "max_model_len", f"expected more than max_tokens {self.max_tokens}, got {self.max_model_len}"
            )

    def stored(self) -> dict[str, Any]:
        """What run_info.json keeps of it: what decides the data; options only where there are any."""
        groups = {"template": self.template.stored(), "engine_options": self.engine_options.stored()}
        own = {name: value for name, value in asdict(self).items() if name not in (*groups, "skip_bad")}
        return own | {name: options for name, options in groups.items() if options}


def config_differences(stored: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Settings in which two stored configs differ; the first may be as an earlier version stored it."""
    options = stored.get("engine_options") or {}
    as_now = {
        **_BEFORE,
        **{_RENAMED.get(name, name): value for name, value in stored.items()},
        "engine_options": {name: value for name, value in options.items() if name not in ROOM} or None,
    }
    return differences(sorted({*now, "engine_options", "template"}), as_now, now)
