"""Whether a record is a document or a conversation, and further names of a question and its answer."""

from vllm_mtp.common.errors import InputError
from vllm_mtp.training.data.record_formats import Fields
from vllm_mtp.training.data.records import Record

_CONVERSATION = ("messages", "conversations", "turns", "prompt", "instruction")
_QUESTIONS = ("question", "query", "input")
_ANSWERS = ("completion", "response", "output", "answer")
_SYSTEM = "system_prompt"
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
    if _is_conversation(fields) or isinstance(fields.get("body"), dict):
        return False
    if "text" in fields:
        return True
    keys = ", ".join(map(str, list(fields)[:8])) or "nothing"
    raise InputError(field, f"{record.where}: expected {EXPECTED}, got an object with {keys}")


def with_known_names(fields: Fields) -> Fields:
    """A question and an answer under other names as "prompt" and the answer; anything else as it is."""
    if _is_conversation(fields):
        return fields
    question = next((key for key in _QUESTIONS if fields.get(key) is not None), None)
    if question is None or all(fields.get(key) is None for key in _ANSWERS):
        return fields
    known = {"prompt": fields[question]}
    if _SYSTEM in fields:
        known["system"] = fields[_SYSTEM]
    return {**fields, **known}


def _is_conversation(fields: Fields) -> bool:
    return any(fields.get(key) is not None for key in _CONVERSATION)
