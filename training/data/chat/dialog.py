"""A conversation as people bring it, before it is text: messages as OpenAI has them, and what a template reads."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vllm_mtp.common.errors import InputError

Message = dict[str, Any]
"""A "role", a "content" that is text or a list of text parts, and what else the template may read: "name",
"tool_calls", "tool_call_id", "reasoning_content", ..."""
ASKING_ROLES = ("user", "tool")
"""After whose messages the target answers."""
ANSWERED = ("last", "all")


@dataclass(frozen=True, kw_only=True, slots=True)
class Dialog:
    """One conversation of a file; `layouts.py` makes it, `template.py` renders it."""

    messages: tuple[Message, ...]
    """At least one."""
    unanswered: bool = False
    """Whether the messages are turns of the user alone, each to be asked after the answer to the one before."""
    tools: tuple[dict[str, Any], ...] | None = None
    """What the target may call, as OpenAI has it."""
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    """Variables of the template that this conversation sets; they win over those of the command."""
    category: str = ""
    """What the file says of its kind; empty where it says nothing."""
    where: str = ""
    """Where it was read, as errors say it: "chats.jsonl:12"."""

    @property
    def at(self) -> str:
        """Its place as errors begin with it; nothing where it has none."""
        return f"{self.where}: " if self.where else ""

    @property
    def text(self) -> str:
        """The last message's text."""
        content = self.messages[-1]["content"]
        return content if isinstance(content, str) else "\n".join(part["text"] for part in content)

    def rounds(self, answered: str = "last", *, field: str = "prompts") -> tuple[tuple[Message, ...], ...]:
        """What is given before each answer that the target writes, besides what was given and answered before.

        Args:
            answered: "last": the last message of a user or tool, with everything before as it is. "all": every message
                of an assistant is written anew, except those that call tools, whose results are given. Of `unanswered`
                messages every one is answered either way.
            field: the argument that the conversation came by.

        Raises:
            InputError: if no message is of a user or tool.
        """
        asking = [place for place, message in enumerate(self.messages) if message["role"] in ASKING_ROLES]
        if not asking:
            roles = ", ".join(message["role"] for message in self.messages)
            raise InputError(field, f"{self.at}expected a message of the user to be answered, got only {roles}")
        given = self.messages[: asking[-1] + 1]
        if self.unanswered:
            stops = [place + 1 for place in asking]
            return tuple(given[start:stop] for start, stop in zip([0, *stops], stops, strict=False))
        return (given,) if answered == "last" else _without_answers(given)


def _without_answers(messages: tuple[Message, ...]) -> tuple[tuple[Message, ...], ...]:
    rounds: list[tuple[Message, ...]] = []
    given: list[Message] = []
    for message in messages:
        answers = message["role"] == "assistant" and not message.get("tool_calls")
        if answers and given and given[-1]["role"] in ASKING_ROLES:
            rounds.append(tuple(given))
            given = []
        else:
            given.append(message)
    return (*rounds, tuple(given))
