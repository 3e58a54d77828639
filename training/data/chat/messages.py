"""One message of a conversation, checked and made what vLLM's server makes of it before it is rendered.

Source: vllm/renderers/chat_utils.py, `_parse_chat_message_content` and `_postprocess_messages`.
"""

import json
from decimal import Decimal
from typing import Any

from vllm_mtp.common.errors import InputError
from vllm_mtp.training.data.chat.dialog import Message

ROLE_OF_SPEAKER = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "assistant": "assistant",
    "function_call": "assistant",
    "system": "system",
    "tool": "tool",
    "observation": "tool",
    "function_response": "tool",
}
"""ShareGPT's "from" in its spellings."""
_TEXT_OF_PART = {
    "text": "text",
    "input_text": "text",
    "output_text": "text",
    "refusal": "refusal",
    "thinking": "thinking",
}
"""Types of content parts that are text, and the key that holds it."""
_SAYS = ("content", "value", "refusal", "reasoning", "reasoning_content", "tool_calls", "function_call")
"""Keys that a message says something by."""


def message_of(raw: Any, field: str, where: str) -> Message:
    """A message as a template takes it, from OpenAI's spelling or ShareGPT's.

    Keys without a value are left out, a content without one is empty text; "reasoning" and "reasoning_content" are one
    thing under both names; arguments of calls become objects; a refusal is content where there is none. What is not
    known here is left for the template, as JSON.

    Raises:
        InputError: for anything else, with `where` and what was expected.
    """
    if not isinstance(raw, dict):
        raise InputError(field, f'{where}: expected an object with "role" and "content", got {shown(raw)}')
    if "role" not in raw and "from" in raw:
        raw = _of_sharegpt(raw, field, where)
    role = raw.get("role")
    if not isinstance(role, str) or not role:
        raise InputError(field, f'{where}: expected a "role", got {shown(raw)}')
    content = _content(raw.get("content"), field, f"{where} ({role})")
    kept = {
        key: json_value(value, field, f'{where} ({role}): "{key}"')
        for key, value in raw.items()
        if value is not None and key not in ("content", "refusal")
    }
    if not content and isinstance(raw.get("refusal"), str):
        content = raw["refusal"]
    message: Message = kept | {"role": role, "content": content}
    if role == "function":
        message["role"] = "tool"
    _check_texts(message, field, f"{where} ({role})")
    _join_reasoning(message)
    _normalise_calls(message, field, f"{where} ({role})")
    if is_empty(message):
        raise InputError(field, f"{where} ({role}): expected text, got none")
    return message


def is_empty(message: Message) -> bool:
    """Whether a message of a user or assistant says nothing at all."""
    if message["role"] not in ("user", "assistant") or message.get("tool_calls") or message.get("reasoning"):
        return False
    content = message["content"]
    return not (content if isinstance(content, str) else "".join(part["text"] for part in content)).strip()


def is_without_answer(raw: Any) -> bool:
    """Whether a message, as `message_of` takes it, is the assistant's and has nothing in it."""
    if not isinstance(raw, dict):
        return False
    role = raw.get("role", ROLE_OF_SPEAKER.get(str(raw.get("from")).lower()))
    said = [raw.get(key) for key in _SAYS]
    return role == "assistant" and not any(value.strip() if isinstance(value, str) else value for value in said)


def json_value(value: Any, field: str, where: str) -> Any:
    """A value as JSON has it: dates of a table as ISO 8601, its decimal numbers as numbers.

    Raises:
        InputError: for what JSON does not have, such as bytes, with its place.
    """
    try:
        return json.loads(json.dumps(value, default=_of_table))
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(field, f"{where}: expected JSON data, got something else ({error})") from error


def _of_table(value: Any) -> Any:
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if hasattr(value, "isoformat"):
        return value.isoformat()
    raise TypeError(type(value).__name__)


def shown(value: Any) -> str:
    """The beginning of a value, for an error."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:60]}..."


def parsed(value: Any) -> Any:
    """What a text that is JSON says; anything else as it is."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _of_sharegpt(raw: dict[str, Any], field: str, where: str) -> dict[str, Any]:
    speaker = raw["from"]
    role = ROLE_OF_SPEAKER.get(speaker.lower()) if isinstance(speaker, str) else None
    if role is None:
        known = ", ".join(ROLE_OF_SPEAKER)
        raise InputError(field, f'{where}: expected one of {known} as "from", got {shown(speaker)}')
    message = {key: value for key, value in raw.items() if key not in ("from", "value")} | {"role": role}
    value = raw.get("value")
    if speaker.lower() == "function_call":
        calls = parsed(value)
        return message | {"content": None, "tool_calls": calls if isinstance(calls, list) else [calls]}
    return message | {"content": value}


def _content(content: Any, field: str, where: str) -> Any:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return [_part(part, field, where) for part in content]
    raise InputError(
        field, f'{where}: expected a "content" that is text, null or a list of parts, got {shown(content)}'
    )


def _part(part: Any, field: str, where: str) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    kind = part.get("type") if isinstance(part, dict) else None
    key = _TEXT_OF_PART.get(kind) if isinstance(kind, str) else None
    if key is None:
        what = f"a part of type {kind}" if isinstance(kind, str) else shown(part)
        raise InputError(field, f"{where}: expected content parts of text, got {what}; images and sound are not read")
    text = part.get(key)
    if not isinstance(text, str):
        raise InputError(field, f'{where}: expected text as "{key}" of a content part, got {shown(text)}')
    return {"type": "text", "text": text}


def _check_texts(message: Message, field: str, where: str) -> None:
    for key in ("name", "tool_call_id", "reasoning", "reasoning_content"):
        if key in message and not isinstance(message[key], str):
            raise InputError(field, f'{where}: expected text as "{key}", got {shown(message[key])}')


def _join_reasoning(message: Message) -> None:
    found = message.get("reasoning", message.get("reasoning_content"))
    if found is not None:
        message |= {"reasoning": found, "reasoning_content": found}


def _normalise_calls(message: Message, field: str, where: str) -> None:
    calls = message.pop("tool_calls", None)
    legacy = message.pop("function_call", None)
    calls = [legacy] if calls is None and legacy is not None else calls
    if calls is None or calls == []:
        return
    if not isinstance(calls, list):
        raise InputError(field, f'{where}: expected a list as "tool_calls", got {shown(calls)}')
    message["tool_calls"] = [_call(call, field, where) for call in calls]


def _call(call: Any, field: str, where: str) -> dict[str, Any]:
    if isinstance(call, dict) and "function" not in call and "name" in call:
        call = {"type": "function", "function": call}
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise InputError(field, f'{where}: expected a "function" with a "name" as tool call, got {shown(call)}')
    if call.get("type", "function") != "function":
        raise InputError(field, f'{where}: expected tool calls of type "function", got {shown(call["type"])}')
    arguments = function.get("arguments")
    if arguments is None or arguments == "":
        arguments = {}
    arguments = parsed(arguments)
    if not isinstance(arguments, dict):
        raise InputError(
            field, f"{where}: expected an object as arguments of {function['name']}, got {shown(arguments)}"
        )
    kept = {key: value for key, value in call.items() if value is not None}
    return {"type": "function"} | kept | {"function": function | {"arguments": arguments}}
