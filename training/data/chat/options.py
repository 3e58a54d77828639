"""TemplateOptions: what decides how conversations are rendered, besides the target. Light: flags are made from it."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm_mtp.common.errors import InputError
from vllm_mtp.common.settings import object_of, setting
from vllm_mtp.training.data.chat.tools import tools_of

_DECIDED = frozenset(
    (
        "conversation",
        "messages",
        "tools",
        "chat_template",
        "add_generation_prompt",
        "continue_final_message",
        "tokenize",
    )
)
"""Arguments of `apply_chat_template` that are no variables of a template, or that the commands give."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TemplateOptions:
    """The chat template, under vLLM's own names."""

    chat_template: str | None = setting(
        None, "File with a chat template, as `vllm serve --chat-template` takes it.", none="the target's own"
    )
    chat_template_kwargs: str | None = setting(
        None,
        """Variables of the chat template as a JSON object, such as '{"enable_thinking": false}'; those of a line """
        "win.",
        none="none",
    )
    tools: str | None = setting(
        None, "File with a JSON list of tools, for the conversations that bring none.", none="none"
    )

    def __post_init__(self) -> None:
        check_kwargs(self.kwargs(), "chat_template_kwargs", "")

    def kwargs(self) -> dict[str, Any]:
        """Variables of the template.

        Raises:
            InputError: if they are no JSON object.
        """
        return object_of("chat_template_kwargs", self.chat_template_kwargs)

    def template_text(self) -> str | None:
        """The template of the file; None: the target's own.

        Raises:
            InputError: if there is no such text file.
        """
        return None if self.chat_template is None else _text_of("chat_template", self.chat_template)

    def tool_list(self) -> tuple[dict[str, Any], ...] | None:
        """The tools of the file.

        Raises:
            InputError: if there is no such file, or it does not hold tools.
        """
        return None if self.tools is None else tools_of(_text_of("tools", self.tools), "tools", self.tools)

    def stored(self) -> dict[str, Any]:
        """What of it decides token ids, to be kept beside them, by content; empty where nothing was given."""
        template, tools = self.template_text(), self.tool_list()
        found = {
            "chat_template_sha256": None if template is None else hashlib.sha256(template.encode()).hexdigest(),
            "chat_template_kwargs": self.kwargs() or None,
            "tools_sha256": None if tools is None else hashlib.sha256(json.dumps(tools).encode()).hexdigest(),
        }
        return {name: value for name, value in found.items() if value is not None}


def check_kwargs(kwargs: dict[str, Any], field: str, where: str) -> None:
    """Refuses a name that is no variable of a template.

    Raises:
        InputError: naming it.
    """
    for name in kwargs:
        if name in _DECIDED or name.startswith("return_"):
            at = f"{where}: " if where else ""
            raise InputError(field, f"{at}expected variables of the chat template, got {name}, which is none")


def _text_of(field: str, path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(field, f"expected a text file, got {path} ({error})") from error
