"""How a drafter is to be served, as far as `vllm-mtp doctor` is told. Light: the command line is built from it."""

from dataclasses import dataclass
from typing import Any, ClassVar

from vllm_mtp.common.engine_options import EngineOptions
from vllm_mtp.common.settings import check_at_least, object_of, setting


@dataclass(frozen=True, kw_only=True, slots=True)
class ServingOptions(EngineOptions):
    """Options of the vLLM engine, under vLLM's own names."""

    decided: ClassVar[tuple[str, ...]] = ("model", "dtype", "max_model_len", "hf_overrides", "speculative_config")


@dataclass(frozen=True, kw_only=True, slots=True)
class DoctorConfig:
    """What `vllm serve` will be given besides the target and the drafter."""

    num_speculative_tokens: int = setting(3, "K: draft tokens of a round.")
    max_model_len: int | None = setting(None, "Longest context that is served.", none="the target's own")
    dtype: str = setting("auto", "Of the target and the drafter, in vLLM's words.")
    hf_overrides: str | None = setting(
        None, "Changes of the target's config as a JSON object, such as RoPE scaling for a longer context.", none="none"
    )
    speculative_config: str | None = setting(
        None,
        "Further fields of vLLM's speculative_config as a JSON object, such as "
        """'{"draft_sample_method": "probabilistic"}'.""",
        none="none",
    )
    engine_options: ServingOptions = ServingOptions()

    def __post_init__(self) -> None:
        check_at_least(self, num_speculative_tokens=1, max_model_len=1)
        self.further_speculative()
        self.overrides()

    @property
    def tensor_parallel_size(self) -> int:
        return self.engine_options.tensor_parallel_size or 1

    def further_speculative(self) -> dict[str, Any]:
        return object_of("speculative_config", self.speculative_config)

    def overrides(self) -> dict[str, Any]:
        return object_of("hf_overrides", self.hf_overrides)

    def engine_args(self) -> dict[str, Any]:
        """Arguments of vLLM's engine that do not name the models."""
        given = {"max_model_len": self.max_model_len, "hf_overrides": self.overrides() or None}
        return self.engine_options.engine_args() | {name: value for name, value in given.items() if value is not None}
