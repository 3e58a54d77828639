"""What the checks look at: a target, a drafter's folder, and how they are to be served; each read once, when asked."""

from functools import cached_property
from pathlib import Path
from typing import Any

from vllm_mtp.contract.config import MTPConfig
from vllm_mtp.doctor.config import DoctorConfig


class Case:
    """A target and a drafter that may or may not fit together. Nothing is loaded onto a device.

    Args:
        config: how they are to be served.
        target: folder or Hub id.
        draft: the drafter's folder, as it will be given to vLLM.
    """

    def __init__(self, config: DoctorConfig, *, target: str, draft: str) -> None:
        self.config, self.target, self.draft = config, target, draft

    @property
    def folder(self) -> Path:
        return Path(self.draft)

    @cached_property
    def draft_config(self) -> MTPConfig:
        """The drafter's config, whatever the folder is called and whatever else lies in it.

        Raises:
            ValueError: naming every fault of config.json.
        """
        from vllm_mtp.contract.checkpoint import read_config

        config: MTPConfig = MTPConfig.from_dict(read_config(self.folder))
        return config

    @cached_property
    def _read(self) -> tuple[Any, Any]:
        from vllm_mtp.training.frozen.target import config_and_tokenizer

        return config_and_tokenizer(self.target, **self.config.engine_options.source())

    @property
    def target_config(self) -> Any:
        """The target's whole transformers config.

        Raises:
            ValueError: if there is no such model.
        """
        return self._read[0]

    @property
    def text_config(self) -> Any:
        """That of its text model."""
        return self.target_config.get_text_config()

    @property
    def tokenizer(self) -> Any:
        return self._read[1]

    def engine_args(self) -> dict[str, Any]:
        """Arguments of vLLM's engine that do not name the models.

        With a backend for several ranks named, vLLM does not ask for as many GPUs: the machine that serves may have
        more of them than this one.
        """
        return {"distributed_executor_backend": "mp"} | self.config.engine_args()

    @cached_property
    def engine_config(self) -> Any:
        """vLLM's own config of the engine, checked by vLLM.

        Raises:
            Exception: whatever vLLM refuses the arguments with.
        """
        from vllm.engine.arg_utils import EngineArgs
        from vllm.usage.usage_lib import UsageContext

        speculative = {"model": self.draft, "num_speculative_tokens": self.config.num_speculative_tokens}
        return EngineArgs(
            model=self.target,
            dtype=self.config.dtype,
            speculative_config=speculative | self.config.further_speculative(),
            **self.engine_args(),
        ).create_engine_config(UsageContext.OPENAI_API_SERVER)  # which decides how many requests at once on a GPU

    @property
    def max_model_len(self) -> int:
        """The longest context that vLLM will serve."""
        return int(self.engine_config.model_config.max_model_len)

    @property
    def element_size(self) -> int:
        """Bytes of a weight, as vLLM will keep it."""
        return int(self.engine_config.model_config.dtype.itemsize)

    @property
    def kv_element_size(self) -> int:
        """Bytes of an element of the drafter's keys and values, as vLLM will keep it."""
        own = getattr(self.engine_config.speculative_config, "kv_cache_dtype", None)
        return self._size_of(own) if own else self.kv_element_size_of_target

    @property
    def kv_element_size_of_target(self) -> int:
        """That of the target's."""
        return self._size_of(self.engine_config.cache_config.cache_dtype)

    def _size_of(self, kv_cache_dtype: str) -> int:
        from vllm.utils.torch_utils import kv_cache_dtype_str_to_dtype

        return int(kv_cache_dtype_str_to_dtype(kv_cache_dtype, self.engine_config.model_config).itemsize)

    @property
    def drafts_greedily(self) -> bool:
        """Whether vLLM asks the drafter for its best token alone: `use_local_argmax_reduction`."""
        return bool(self.engine_config.speculative_config.use_local_argmax_reduction)
