"""Conversations with their answers, as the texts in which they are served."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from vllm_mtp.common.errors import InputError
from vllm_mtp.training.data.chat.dialog import Dialog, Message
from vllm_mtp.training.data.chat.spans import common_length


class Renders(Protocol):
    """What `ChatTemplate` does."""

    is_plain: bool

    def text(self, dialog: Dialog, messages: Sequence[Message], *, answer_follows: bool) -> str: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class RowText:
    """A conversation as text, up to the end of its last answer."""

    text: str
    answers: tuple[tuple[int, int], ...]
    """Start and stop of each answer among the characters, in order."""


def row_texts(template: Renders, dialog: Dialog, field: str) -> list[RowText]:
    """The rows of a conversation; see `ChatTemplate.rows`.

    Raises:
        InputError: as there.
    """
    if template.is_plain:
        raise InputError(
            field, f"{dialog.at}expected a target with a chat template, this one has none; give a chat_template"
        )
    rows: list[RowText] = []
    for place, message in enumerate(dialog.messages):
        if place == 0 or message["role"] != "assistant":
            continue
        text, start = _answered(template, dialog, place, field)
        goes_on = bool(rows) and text.startswith(rows[-1].text) and start >= len(rows[-1].text)
        earlier = rows.pop().answers if goes_on else ()
        rows.append(RowText(text=text, answers=(*earlier, (start, len(text)))))
    if not rows:
        roles = ", ".join(message["role"] for message in dialog.messages)
        raise InputError(field, f"{dialog.at}expected an answer of an assistant, got only {roles}")
    return rows


def _answered(template: Renders, dialog: Dialog, place: int, field: str) -> tuple[str, int]:
    """The text up to an answer's end, and where in it the answer begins."""
    before = dialog.messages[:place]
    asked = template.text(dialog, before, answer_follows=True)
    # White space behind the end of a turn is not the target's: it has stopped there.
    answered = template.text(dialog, dialog.messages[: place + 1], answer_follows=False).rstrip()
    start = common_length(asked, answered)
    if start < len(asked) and start < len(template.text(dialog, before, answer_follows=False).rstrip()):
        raise InputError(
            field,
            f"{dialog.at}expected a chat template that renders what was asked as before when it is answered, this one "
            f"does not for message {place + 1}",
        )
    return answered, start
