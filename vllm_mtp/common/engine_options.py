"""What a user of vLLM may say of its engine, besides what our commands decide."""

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from vllm_mtp.common.errors import InputError
from vllm_mtp.common.settings import check_at_least, check_share, object_of, setting

ROOM = frozenset(("gpu_memory_utilization", "kv_cache_memory_bytes", "num_gpu_blocks_override", "cpu_offload_gb"))
"""Arguments that say how much memory there is: they may decide a speed, and no text."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineOptions:
    """Options of the vLLM engine, under vLLM's own names."""

    decided: ClassVar[tuple[str, ...]] = (
        "model",
        "dtype",
        "seed",
        "max_model_len",
        "max_num_seqs",
        "enforce_eager",
        "enable_prefix_caching",
        "speculative_config",
        "runner",
        "convert",
        "pooler_config",
    )
    """Arguments of `vllm.LLM` that the command gives."""
    tensor_parallel_size: int | None = setting(None, "GPUs that share the target.", none="1")
    gpu_memory_utilization: float | None = setting(None, "Share of a GPU's memory that one engine may take.")
    quantization: str | None = setting(None, "Quantization of the target.", none="as its config says")
    trust_remote_code: bool = setting(False, "Run code that comes with the target.")
    revision: str | None = setting(None, "Branch, tag or commit of a Hub id.", none="its default branch")
    vllm_args: str | None = setting(
        None, """Further arguments of vllm.LLM as a JSON object, such as '{"kv_cache_dtype": "fp8"}'.""", none="none"
    )

    def __post_init__(self) -> None:
        check_at_least(self, tensor_parallel_size=1)
        check_share(self, "gpu_memory_utilization")
        own = {name for name in asdict(self) if name != "vllm_args"}
        for name in self._further():
            if name in own or name in self.decided:
                what = "has a flag of its own" if name in own else "is decided by the command"
                raise InputError("vllm_args", f"expected other arguments than {name}, which {what}")

    def engine_args(self) -> dict[str, Any]:
        """Keyword arguments of `vllm.LLM`: what was given, nothing of what was not."""
        given = {name: value for name, value in asdict(self).items() if name != "vllm_args"}
        return {name: value for name, value in given.items() if value not in (None, False)} | self._further()

    def stored(self) -> dict[str, Any]:
        """What of it decides texts, to be kept beside them; empty where nothing was given."""
        return {name: value for name, value in self._deciding().items() if name not in ROOM}

    def settings(self) -> dict[str, Any]:
        """What of it decides figures, speeds among them; without a word where nothing was given, as figures were
        stored before there were options."""
        options = self._deciding()
        return {"engine_options": options} if options else {}

    def source(self) -> dict[str, Any]:
        """Which files of a target are read, and whether its code runs, for those who read it beside the engine."""
        return {"revision": self.revision, "trust_remote_code": self.trust_remote_code}

    def _deciding(self) -> dict[str, Any]:
        return {name: value for name, value in self.engine_args().items() if name != "trust_remote_code"}

    def _further(self) -> dict[str, Any]:
        return object_of("vllm_args", self.vllm_args)
