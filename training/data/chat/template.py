"""ChatTemplate: conversations as text and token ids, as vLLM's server renders them for the same target.

Source: vllm/renderers/hf.py, `safe_apply_chat_template` and what prepares its messages.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from vllm_mtp.common.errors import InputError
from vllm_mtp.training.data.chat.answered import row_texts
from vllm_mtp.training.data.chat.dialog import Dialog, Message
from vllm_mtp.training.data.chat.options import TemplateOptions
from vllm_mtp.training.data.chat.spans import token_spans

_MARKER = "content-of-a-message"
_READ_BY_SOME = {"tool_calls": r"\btool_calls\b", "reasoning": r"\b(reasoning(_content)?|thinking)\b"}
"""Keys of messages, and what a template that reads them has in it."""
_MOST_PROBED = 8
_SILENT = {"reasoning_effort", "enable_thinking"}
"""Variables that many records have for whichever target reads them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rendered:
    """A conversation as token ids, and which of them are answers."""

    ids: tuple[int, ...]
    answers: tuple[tuple[int, int], ...]
    """Start and stop of each answer among the ids, in order; what ends a turn is of the answer."""


class ChatTemplate:
    """A target's chat template, or the one that takes its place.

    Args:
        tokenizer: the target's.
        options: what the command says of it.
        plain: render without a template, as for a target that has none: the text of one message of the user.
        field: the argument that conversations come by, for errors.

    Raises:
        InputError: for a template, tools or variables that cannot be used.
    """

    def __init__(
        self, tokenizer: Any, options: TemplateOptions | None = None, *, plain: bool = False, field: str = "prompts"
    ) -> None:
        options = options or TemplateOptions()
        self.tokenizer = tokenizer
        self._field = field
        self._template = options.template_text()
        self._tools = options.tool_list()
        self._kwargs = options.kwargs()
        own = getattr(tokenizer, "chat_template", None)
        self.is_plain = plain or not (self._template or own)
        """Whether there is no template."""
        self._remedy = "leave out no_chat_template" if plain and (self._template or own) else "give a chat_template"
        sources = [self._template] if self._template else list(own.values()) if isinstance(own, dict) else [own]
        self._source = "\n".join(str(source) for source in sources if source)
        self._variables = frozenset() if self.is_plain else self._checked_variables()
        self._takes_parts = not self.is_plain and self._probe([{"type": "text", "text": _MARKER}])

    @property
    def sha256(self) -> str:
        """Hash of the template's source, empty text where there is none; not of what it renders, such as a date."""
        return hashlib.sha256(b"" if self.is_plain else self._source.encode()).hexdigest()

    def passed_over(self, dialogs: Iterable[Dialog]) -> list[str]:
        """What conversations have and the template does not read, so that the target will not see it."""
        if self.is_plain:
            return []
        variables: set[str] = set()
        keys: set[str] = set()
        named: list[Dialog] = []
        for dialog in dialogs:
            variables |= dialog.template_kwargs.keys() | ({"tools"} if dialog.tools or self._tools else set())
            of_messages = {key for message in dialog.messages for key in message}
            keys |= of_messages & _READ_BY_SOME.keys()
            if "name" in of_messages and len(named) < _MOST_PROBED:
                named.append(dialog)
        found = {key for key in keys if not re.search(_READ_BY_SOME[key], self._source)}
        if named and not any(map(self._reads_names, named)):
            found.add("name")
        return sorted(found | (variables - _SILENT - self._variables))

    def note_of_passed_over(self, dialogs: Iterable[Dialog]) -> str:
        """`passed_over` as a sentence; empty where there is nothing."""
        names = ", ".join(self.passed_over(dialogs))
        return f"the chat template reads no {names}: the target will not see it, as in serving" if names else ""

    def _reads_names(self, dialog: Dialog) -> bool:
        """Whether a conversation is another text without the names of its messages."""
        bare = [{key: value for key, value in message.items() if key != "name"} for message in dialog.messages]
        try:
            with_names = self.text(dialog, dialog.messages, answer_follows=False)
            return with_names != self.text(dialog, bare, answer_follows=False)
        except InputError:  # which is told elsewhere
            return True

    def prompt_text(self, dialog: Dialog, messages: Sequence[Message] | None = None) -> str:
        """What the target is asked with, up to where its answer begins.

        Args:
            dialog: the conversation.
            messages: what was said so far; None: what `dialog.rounds()` gives before the first answer.

        Raises:
            InputError: if the template refuses the messages, or there is none and more than a text of the user is
                given; naming the place.
        """
        messages = dialog.rounds(field=self._field)[0] if messages is None else messages
        if not self.is_plain:
            return self.text(dialog, messages, answer_follows=True)
        if [message["role"] for message in messages] != ["user"]:
            roles = ", ".join(message["role"] for message in messages)
            raise InputError(
                self._field,
                f"{dialog.at}expected one message of the user for a target without a chat template, got {roles}; "
                f"{self._remedy}",
            )
        return replace(dialog, messages=tuple(messages)).text

    def prompt_ids(self, dialog: Dialog, messages: Sequence[Message] | None = None) -> list[int]:
        """Token ids of `prompt_text`."""
        return self.ids_of([self.prompt_text(dialog, messages)], [dialog])[0]

    def ids_of(self, texts: Sequence[str], dialogs: Sequence[Dialog]) -> list[list[int]]:
        """Token ids of rendered texts, in the tokenizer's own threads.

        Args:
            texts: as `prompt_text` gives them.
            dialogs: the conversation of each, for errors.

        Raises:
            InputError: if the tokenizer takes one of them not, naming the place.
        """
        return [[int(token) for token in ids] for ids in self._encoded(texts, dialogs)["input_ids"]]

    def rows(self, dialog: Dialog) -> list[Rendered]:
        """A conversation with its answers, in as few rows as show every answer behind what the target is asked with.

        One row, unless the template renders earlier turns otherwise once there are later ones, as those do that drop
        an earlier turn's reasoning: then a row for each of them. What follows the last answer is left out.

        Raises:
            InputError: if the template refuses the messages, there is no answer, or an answer cannot be told from what
                is before it; naming the place.
        """
        return self.rows_of([dialog])[0]

    def rows_of(self, dialogs: Sequence[Dialog]) -> list[list[Rendered]]:
        """The `rows` of several conversations, in the tokenizer's own threads."""
        found = [row_texts(self, dialog, self._field) for dialog in dialogs]
        flat = [(row, dialog) for rows, dialog in zip(found, dialogs, strict=True) for row in rows]
        encoded = self._encoded([row.text for row, _ in flat], [dialog for _, dialog in flat], offsets=True)
        rendered = (
            Rendered(
                ids=tuple(int(token) for token in encoded["input_ids"][number]),
                answers=token_spans(self.tokenizer, encoded, number, row.text, row.answers),
            )
            for number, (row, _) in enumerate(flat)
        )
        return [list(islice(rendered, len(rows))) for rows in found]

    def text(self, dialog: Dialog, messages: Sequence[Message], *, answer_follows: bool) -> str:
        """What the template makes of messages, with the conversation's tools and variables.

        Args:
            dialog: the conversation.
            messages: those of them, or with answers among them.
            answer_follows: end where the assistant's answer begins.

        Raises:
            InputError: if the template refuses them, naming the place.
        """
        try:
            return self._apply(
                self._prepared(messages),
                list(dialog.tools or self._tools or ()) or None,
                {**self._kwargs, **dialog.template_kwargs},
                answer_follows,
            )
        except Exception as error:  # whatever a template raises is about the messages
            roles = ", ".join(message["role"] for message in messages)
            raise InputError(
                self._field,
                f"{dialog.at}expected messages that the target's chat template takes, it refuses {roles}: {error}. "
                "Some take no message of a system: write what it says into the user's first message, as that target "
                "is served.",
            ) from error

    def _apply(
        self, messages: list[Message], tools: list[dict[str, Any]] | None, kwargs: dict[str, Any], answer_follows: bool
    ) -> str:
        given = {"chat_template": self._template} if self._template else {}
        text = self.tokenizer.apply_chat_template(
            messages, tools=tools, tokenize=False, add_generation_prompt=answer_follows, **given, **kwargs
        )
        return str(text)

    def _prepared(self, messages: Sequence[Message]) -> list[Message]:
        """Content as the template takes it, and no role of a developer where it does not know one."""
        if not re.search("[\"']developer[\"']", self._source):
            messages = _without_developer(messages)
        return [message | {"content": self._content(message)} for message in messages]

    def _content(self, message: Message) -> Any:
        content = message["content"]
        if self._takes_parts and message["role"] != "tool":
            return [{"type": "text", "text": content}] * bool(content) if isinstance(content, str) else content
        return content if isinstance(content, str) else "\n".join(part["text"] for part in content)

    def _probe(self, content: Any) -> bool:
        """Whether the template finds the text of a content, rather than nothing or the content's representation."""
        try:
            text = self._apply([{"role": "user", "content": content}], None, self._kwargs, True)
        except Exception:
            return False
        return _MARKER in text and not re.search(f"[\"']{_MARKER}[\"']", text)

    def _checked_variables(self) -> frozenset[str]:
        """The variables that the template reads; refuses a template that is none, and others than those."""
        from jinja2 import Environment, TemplateError, meta

        plain = re.sub(r"\{%[-+]?\s*(end)?generation\s*[-+]?%\}", "", self._source)
        try:
            read = meta.find_undeclared_variables(Environment(extensions=["jinja2.ext.loopcontrols"]).parse(plain))
        except TemplateError as error:
            where = "chat_template" if self._template else "target"
            raise InputError(
                where, f"expected a chat template in Jinja, got one that does not parse: {error}"
            ) from error
        for name in self._kwargs:
            if name not in read:
                raise InputError(
                    "chat_template_kwargs",
                    f"expected variables that the chat template reads ({', '.join(sorted(read))}), got {name}",
                )
        return frozenset(read)

    def _encoded(self, texts: Sequence[str], dialogs: Sequence[Dialog], *, offsets: bool = False) -> Any:
        """Plain text gets the special tokens that the tokenizer puts around it; a template writes its own."""
        how: dict[str, Any] = {"add_special_tokens": self.is_plain}
        if offsets and getattr(self.tokenizer, "is_fast", False):
            how["return_offsets_mapping"] = True
        try:
            return self.tokenizer(list(texts), verbose=False, **how)
        except Exception as error:  # tokenizers have no exception of their own
            if len(texts) > 1:
                for text, dialog in zip(texts, dialogs, strict=True):
                    self._encoded([text], [dialog], offsets=offsets)
            raise InputError(
                self._field, f"{dialogs[0].at}expected text that the tokenizer takes, it refuses this: {error}"
            ) from error


def _without_developer(messages: Sequence[Message]) -> Sequence[Message]:
    """Messages of a developer as those of a system, and these as one in front, as vLLM does for such templates."""
    if all(message["role"] != "developer" for message in messages):
        return messages
    of_system = [message for message in messages if message["role"] in ("system", "developer")]
    others = [message for message in messages if message["role"] not in ("system", "developer")]
    texts = [Dialog(messages=(message,)).text for message in of_system]
    return [{"role": "system", "content": "\n\n".join(text for text in texts if text)}, *others]
