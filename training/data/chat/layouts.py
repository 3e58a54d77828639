"""Records of the layouts that people have, made conversations; everything else is refused by name.

| layout | what it is |
|---|---|
| `messages` | OpenAI's, with `tools`, tool calls and results, names, reasoning, content parts; or a request's `body` |
| `conversations` | ShareGPT's: `from` and `value` (or OpenAI's keys), with `system` and `tools` beside |
| `turns` | Spec-Bench's and MT-Bench's: texts of the user alone, asked one after another |
| `prompt` | a text or messages; with `completion` or `response` that is the answer |
| `instruction` | Alpaca's, with `input` and `output`; Dolly's, with `context` and `response` |

Beside all of them: `system`, `tools`, `chat_template_kwargs`, `reasoning_effort`, `category`.
"""

import json
from collections.abc import Callable
from typing import Any

from vllm_mtp.common.errors import InputError
from vllm_mtp.training.data.chat.dialog import Dialog, Message
from vllm_mtp.training.data.chat.messages import message_of, parsed, shown
from vllm_mtp.training.data.chat.options import check_kwargs
from vllm_mtp.training.data.chat.tools import tools_of

_ANSWERS = ("completion", "response", "output", "answer")
_INPUTS = ("input", "context")


def dialog_of(record: Any, *, field: str, where: str) -> Dialog:
    """A conversation out of one record of a file.

    Args:
        record: what JSON, Parquet or a data set's row holds.
        field: the argument that it came by, for errors.
        where: its place, such as "chats.jsonl:12".

    Raises:
        InputError: if it has no known layout, or its content is not what that layout asks for; naming the place.
    """
    if not isinstance(record, dict):
        raise InputError(field, f"{where}: expected an object with one of {_names()}, got {shown(record)}")
    check_unicode(record, field, where)
    if isinstance(record.get("body"), dict):
        record = record["body"]
    layout = next((name for name in _LAYOUTS if record.get(name) is not None), None)
    if layout is None:
        found = ", ".join(map(str, record)) or "nothing"
        raise InputError(field, f"{where}: expected an object with one of {_names()}, got one with {found}")
    messages = _LAYOUTS[layout](record, field, where)
    return Dialog(
        messages=_with_system(messages, record.get("system"), field, where),
        unanswered=layout == "turns",
        tools=tools_of(record.get("tools") or record.get("functions"), field, where),
        template_kwargs=_kwargs(record, field, where),
        category=str(record.get("category") or ""),
        where=where,
    )


def user_dialog(text: str, *, category: str = "", where: str = "") -> Dialog:
    """A conversation that is one text of the user."""
    return Dialog(messages=({"role": "user", "content": text},), category=category, where=where)


def check_unicode(value: Any, field: str, where: str) -> None:
    """Refuses text that no tokenizer takes: half of a surrogate pair, as "\\ud83d" in JSON gives.

    Raises:
        InputError: with the place, and the code point.
    """
    try:
        json.dumps(value, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError as error:
        found = f"U+{ord(error.object[error.start]):04X}"
        raise InputError(field, f"{where}: expected Unicode text, got half of a surrogate pair ({found})") from error
    except (ValueError, RecursionError) as error:
        raise InputError(field, f"{where}: expected JSON data, got something else ({error})") from error


def _names() -> str:
    *most, last = (f'"{name}"' for name in _LAYOUTS)
    return f"{', '.join(most)} or {last}"


def _listed(raw: Any, name: str, field: str, where: str) -> tuple[Message, ...]:
    raw = parsed(raw)  # some tables hold messages as text
    if not isinstance(raw, list) or not raw:
        raise InputError(field, f'{where}: expected a list of messages as "{name}", got {shown(raw)}')
    return tuple(message_of(one, field, f"{where}, message {place}") for place, one in enumerate(raw, start=1))


def _messages(record: dict[str, Any], field: str, where: str) -> tuple[Message, ...]:
    return _listed(record["messages"], "messages", field, where)


def _conversations(record: dict[str, Any], field: str, where: str) -> tuple[Message, ...]:
    return _listed(record["conversations"], "conversations", field, where)


def _turns(record: dict[str, Any], field: str, where: str) -> tuple[Message, ...]:
    turns = record["turns"]
    if not isinstance(turns, list) or not turns:
        raise InputError(field, f'{where}: expected a list of texts as "turns", got {shown(turns)}')
    return tuple(
        {"role": "user", "content": _text(turn, f"turn {place}", field, where)}
        for place, turn in enumerate(turns, start=1)
    )


def _prompt(record: dict[str, Any], field: str, where: str) -> tuple[Message, ...]:
    prompt = record["prompt"]
    if isinstance(prompt, list):
        asked = _listed(prompt, "prompt", field, where)
    else:
        asked = ({"role": "user", "content": _text(prompt, '"prompt"', field, where)},)
    return asked + _answer(record, field, where)


def _instruction(record: dict[str, Any], field: str, where: str) -> tuple[Message, ...]:
    text = _text(record["instruction"], '"instruction"', field, where)
    for name in _INPUTS:
        if record.get(name):
            text += "\n" + _text(record[name], f'"{name}"', field, where)
    return ({"role": "user", "content": text}, *_answer(record, field, where))


def _answer(record: dict[str, Any], field: str, where: str) -> tuple[Message, ...]:
    name = next((name for name in _ANSWERS if record.get(name) is not None), None)
    if name is None:
        return ()
    if isinstance(record[name], list):
        return _listed(record[name], name, field, where)
    return ({"role": "assistant", "content": _text(record[name], f'"{name}"', field, where)},)


def _text(value: Any, what: str, field: str, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise InputError(field, f"{where}: expected text as {what}, got {shown(value)}")
    return value


def _with_system(messages: tuple[Message, ...], system: Any, field: str, where: str) -> tuple[Message, ...]:
    if system is None or system == "":
        return messages
    text = _text(system, '"system"', field, where)
    if messages[0]["role"] in ("system", "developer"):
        raise InputError(field, f'{where}: expected one message of a system, got "system" beside one in the messages')
    return ({"role": "system", "content": text}, *messages)


def _kwargs(record: dict[str, Any], field: str, where: str) -> dict[str, Any]:
    kwargs = parsed(record.get("chat_template_kwargs"))
    if not isinstance(kwargs, dict | None):
        raise InputError(field, f'{where}: expected an object as "chat_template_kwargs", got {shown(kwargs)}')
    check_kwargs(kwargs or {}, field, where)
    effort = record.get("reasoning_effort")
    asked = {} if effort is None else {"reasoning_effort": effort, "enable_thinking": effort != "none"}
    return asked | (kwargs or {})


_LAYOUTS: dict[str, Callable[[dict[str, Any], str, str], tuple[Message, ...]]] = {
    "messages": _messages,
    "conversations": _conversations,
    "turns": _turns,
    "prompt": _prompt,
    "instruction": _instruction,
}
"""Of several in one record the first counts: it is the richest."""
