"""Whether a record is a document or a conversation, and other names of what `chat/layouts.py` knows."""

from vllm_mtp.common.errors import InputError
from vllm_mtp.training.data.chat.layouts import ANSWERS, LAYOUTS, has_answer
from vllm_mtp.training.data.record_formats import Fields
from vllm_mtp.training.data.records import Record

_MESSAGES = ("conversation", "dialog", "dialogue", "chat")
_QUESTIONS = ("question", "query")
EXPECTED = (
    'a document ("text") or a conversation ("messages", "conversations", "prompt" and "completion", "instruction" and '
    '"output", "question" and "answer")'
)


def is_document(record: Record, field: str) -> bool:
    """Whether a record is a document of plain text, and not a conversation.

    Raises:
        InputError: if it is neither.
    """
    fields = with_known_names(record.fields)
    if _is_text_of_prompt(fields):
        return True
    if _is_known(fields) or isinstance(fields.get("body"), dict):
        return False
    if "text" in fields:
        return True
    keys = ", ".join(map(str, list(fields)[:8])) or "nothing"
    raise InputError(field, f"{record.where}: expected {EXPECTED}, got an object with {keys}")


def with_known_names(fields: Fields) -> Fields:
    """A conversation under another name as "messages", a question as "prompt"; anything else as it is."""
    if _is_known(fields):
        return fields
    for name in _MESSAGES:
        if isinstance(fields.get(name), list):
            return {**fields, "messages": fields[name]}
    is_answered = any(fields.get(name) is not None for name in ANSWERS)
    for name in (*_QUESTIONS, *(("input",) if is_answered else ())):
        if fields.get(name) is not None and (is_answered or "text" not in fields):
            return {key: value for key, value in fields.items() if key != name} | {"prompt": fields[name]}
    return fields


def _is_text_of_prompt(fields: Fields) -> bool:
    """Whether a record has a text beside the prompt that it was written to, as synthetic text has, and no answer."""
    first = next((name for name in LAYOUTS if fields.get(name) is not None), None)
    is_prompt = first in ("prompt", "instruction") and isinstance(fields[first], str)
    return is_prompt and isinstance(fields.get("text"), str) and not has_answer(fields)


def _is_known(fields: Fields) -> bool:
    return any(fields.get(name) is not None for name in LAYOUTS)
