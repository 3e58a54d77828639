"""What every benchmark that serves a target is told of engines and prompts. Light: command lines are built from it."""

from dataclasses import dataclass, fields
from typing import Any

from vllm_mtp.common.engine_options import EngineOptions
from vllm_mtp.common.settings import setting
from vllm_mtp.training.config import DTYPES
from vllm_mtp.training.data.chat.options import TemplateOptions


@dataclass(frozen=True, kw_only=True, slots=True)
class ServingOptions:
    """The part that the configs of these benchmarks have in common."""

    dtype: str = setting("auto", "auto: on a CPU the faster one, by a short probe.", choices=DTYPES)
    no_chat_template: bool = setting(False, "Take prompts as plain text even if the target has a chat template.")
    enforce_eager: bool = setting(False, "Run without torch.compile, on either side.")
    template_options: TemplateOptions = TemplateOptions()
    engine_options: EngineOptions = EngineOptions()

    def serving_options(self) -> dict[str, Any]:
        """Its fields, for the config of another benchmark."""
        return {one.name: getattr(self, one.name) for one in fields(ServingOptions)}
