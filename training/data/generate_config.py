"""GenerateConfig: what decides the data that `vllm-mtp generate` makes. Light: the command line is built from it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from vllm_mtp.common.engine_options import EngineOptions
from vllm_mtp.common.errors import InputError
from vllm_mtp.common.settings import check_at_least, check_choices, setting
from vllm_mtp.training.config import DTYPES, differences

_RENAMED = {"temperatures": "temperature"}


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerateConfig:
    """What decides the data; `vllm-mtp generate` has a flag for every field."""

    self_prompts: int = setting(0, "User turns that the target writes itself, besides those of the files.")
    temperature: tuple[float, ...] = setting(
        (0.0, 0.6, 1.0), "Temperatures of the answers, in turn; 0 is greedy.", old=("temperatures",)
    )
    # Unlike a nucleus (top_p) it needs no sort of the vocabulary, which on a CPU takes longer than the model.
    min_p: float = setting(0.05, "Least probability of a sampled token, as a share of the most likely token's.")
    max_tokens: int = setting(256, "Most tokens of an answer.")
    max_user_tokens: int = setting(
        96, "Most tokens that the target writes of a user turn; a turn that does not end by itself is dropped."
    )
    max_model_len: int = setting(2048, "Most tokens of prompt and answer together; longer prompts are dropped.")
    batch_size: int = setting(384, "Conversations of a batch, the unit that is written and resumed.")
    max_num_seqs: int = setting(128, "Conversations that vLLM generates together.")
    dtype: str = setting(
        "auto",
        "auto: the checkpoint's dtype on a GPU; on a CPU the faster one, by a short probe.",
        choices=DTYPES,
    )
    seed: int = setting(0, "Seed of the order of the prompts and of sampling.")
    engine_options: EngineOptions = EngineOptions()

    def __post_init__(self) -> None:
        check_choices(self)
        check_at_least(self, self_prompts=0, temperature=0, max_tokens=1, max_user_tokens=1)
        check_at_least(self, batch_size=1, max_num_seqs=1)
        if not 0 <= self.min_p < 1:
            raise InputError("min_p", f"expected 0 or more and below 1, got {self.min_p}")
        if self.max_model_len <= self.max_tokens:
            raise InputError(
                "max_model_len", f"expected more than max_tokens {self.max_tokens}, got {self.max_model_len}"
            )

    def stored(self) -> dict[str, Any]:
        """What run_info.json keeps of it; engine options only where there are any."""
        options = self.engine_options.stored()
        own = {name: value for name, value in asdict(self).items() if name != "engine_options"}
        return own | ({"engine_options": options} if options else {})


def config_differences(stored: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Settings in which two stored configs differ; the first may have the names of an earlier version."""
    stored = {_RENAMED.get(name, name): value for name, value in stored.items()}
    return differences(sorted({*now, "engine_options"}), stored, now)
