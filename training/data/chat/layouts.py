"""Records of the layouts that people have, made conversations; everything else is refused by name.

| layout | what it is |
|---|---|
| `messages` | OpenAI's, with `tools`, tool calls and results, names, reasoning, content parts; or a request's `body` |
| `conversations` | ShareGPT's: `from` and `value` (or OpenAI's keys), with `system` and `tools` beside |
| `turns` | Spec-Bench's and MT-Bench's: texts of the user alone, asked one after another |
| `prompt` | a text, with `input` or `context` behind it, or messages; `completion` or `response` is the answer |
| `instruction` | Alpaca's, with `input` and `output`; Dolly's, with `context` and `response` |

Beside all of them: `system` or `system_prompt`, `tools`, `chat_template_kwargs`, `reasoning_effort`, `category`; an
answer also beside messages that end with one to be answered.
"""

import json
from collections.abc import Callable
from typing import Any

from vllm_mtp.common.errors import InputError
from vllm_mtp.training.data.chat.dialog import ASKING_ROLES, Dialog, Message
from vllm_mtp.training.data.chat.messages import is_without_answer, json_value, message_of, parsed, shown
from vllm_mtp.training.data.chat.options import check_kwargs
from vllm_mtp.training.data.chat.tools import tools_of

ANSWERS = ("completion", "response", "output", "answer")
"""What holds the answer to a prompt."""
_INPUTS = ("input", "context")
_SYSTEMS = ("system", "system_prompt")


def dialog_of(record: Any, *, field: str, where: str, answers: bool = True) -> Dialog:
    """A conversation out of one record of a file.

    Args:
        record: what JSON, Parquet or a data set's row holds.
        field: the argument that it came by, for errors.
        where: its place, such as "chats.jsonl:12".
        answers: False: the last answer is not needed, so one that is empty or of another kind is left out.

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
    if not answers and layout in _LISTS:
        record = {**record, layout: _without_empty_answer(record[layout])}
    messages = _LAYOUTS[layout](record, field, where)
    if layout in _PROMPTS or (layout in _LISTS and messages[-1]["role"] in ASKING_ROLES):
        messages += _answer(record, field, where, answers)
    return Dialog(
        messages=_with_system(messages, record, field, where),
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


def has_answer(record: dict[str, Any]) -> bool:
    """Whether an answer stands beside what is asked."""
    return any(not _is_empty(record.get(name)) for name in ANSWERS)


def _is_empty(value: Any) -> bool:
    return value is None or value in ([], {}) or (isinstance(value, str) and not value.strip())


def _without_empty_answer(raw: Any) -> Any:
    """Messages without a last one of the assistant that says nothing."""
    raw = parsed(raw)
    return raw[:-1] if isinstance(raw, list) and len(raw) > 1 and is_without_answer(raw[-1]) else raw


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
    inputs = _inputs(record, field, where)
    if isinstance(prompt, list):
        if inputs:
            raise InputError(field, f"{where}: expected all that is asked in the messages, got an input beside them")
        return _listed(prompt, "prompt", field, where)
    text = _text(prompt, '"prompt"', field, where)
    if not _is_empty(record.get("instruction")):  # the prompt is what was made of instruction and input
        inputs = []
    # Others have the input in the prompt already; a single word may be there by accident.
    inputs = [one for one in inputs if one not in text or len(one.split()) == 1]
    return ({"role": "user", "content": "\n".join([text, *inputs])},)


def _instruction(record: dict[str, Any], field: str, where: str) -> tuple[Message, ...]:
    text = _text(record["instruction"], '"instruction"', field, where)
    return ({"role": "user", "content": "\n".join([text, *_inputs(record, field, where)])},)


def _inputs(record: dict[str, Any], field: str, where: str) -> list[str]:
    """What is asked about, where there is anything."""
    found = {name: record[name] for name in _INPUTS if not _is_empty(record.get(name))}
    return [_text(_joined(value), f'"{name}"', field, where) for name, value in found.items()]


def _joined(value: Any) -> Any:
    """A list of texts as one; anything else as it is."""
    is_texts = isinstance(value, list) and all(isinstance(one, str) for one in value)
    return "\n".join(value) if is_texts else value


def _answer(record: dict[str, Any], field: str, where: str, needed: bool) -> tuple[Message, ...]:
    """The answer beside what is asked; one that cannot be read is an error only where it is needed."""
    name = next((name for name in ANSWERS if not _is_empty(record.get(name))), None)
    if name is None:
        return ()
    value = record[name]
    try:
        if isinstance(value, list):
            return _listed(value, name, field, where)
        if isinstance(value, int | float) and not isinstance(value, bool):
            value = str(value)
        return ({"role": "assistant", "content": _text(value, f'"{name}"', field, where)},)
    except InputError:
        if needed:
            raise
        return ()


def _text(value: Any, what: str, field: str, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise InputError(field, f"{where}: expected text as {what}, got {shown(value)}")
    return value


def _with_system(messages: tuple[Message, ...], record: dict[str, Any], field: str, where: str) -> tuple[Message, ...]:
    """The messages behind what stands beside them of a system, unless they say just that themselves."""
    found = {name: record[name] for name in _SYSTEMS if not _is_empty(record.get(name))}
    texts = {_text(value, f'"{name}"', field, where) for name, value in found.items()}
    first = messages[0] if messages[0]["role"] in ("system", "developer") else None
    if not texts or (first and texts == {Dialog(messages=(first,)).text}):
        return messages
    if first or len(texts) > 1:
        beside = "one in the messages" if first else '"system_prompt"'
        raise InputError(field, f'{where}: expected one message of a system, got "{next(iter(found))}" beside {beside}')
    return ({"role": "system", "content": texts.pop()}, *messages)


def _kwargs(record: dict[str, Any], field: str, where: str) -> dict[str, Any]:
    kwargs = parsed(record.get("chat_template_kwargs"))
    if not isinstance(kwargs, dict | None):
        raise InputError(field, f'{where}: expected an object as "chat_template_kwargs", got {shown(kwargs)}')
    given: dict[str, Any] = json_value(kwargs or {}, field, f'{where}: "chat_template_kwargs"')
    check_kwargs(given, field, where)
    effort = record.get("reasoning_effort")
    asked = {} if effort is None else {"reasoning_effort": effort, "enable_thinking": effort != "none"}
    return asked | given


_LAYOUTS: dict[str, Callable[[dict[str, Any], str, str], tuple[Message, ...]]] = {
    "messages": _messages,
    "conversations": _conversations,
    "turns": _turns,
    "prompt": _prompt,
    "instruction": _instruction,
}
"""Of several in one record the first counts: it is the richest."""
LAYOUTS = tuple(_LAYOUTS)
_LISTS = ("messages", "conversations")
_PROMPTS = ("prompt", "instruction")
