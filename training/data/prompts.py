"""Prompts for generation and benchmarks, out of files, and user turns that a target writes itself."""

from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path

from vllm_mtp.common.errors import InputError
from vllm_mtp.training.data.chat.dialog import Dialog
from vllm_mtp.training.data.chat.layouts import check_unicode, dialog_of, user_dialog
from vllm_mtp.training.data.chat.template import ChatTemplate
from vllm_mtp.training.data.layouts import with_known_names
from vllm_mtp.training.data.record_formats import read_text
from vllm_mtp.training.data.records import BadRecords, data_files, is_text, read_records

SEPARATOR = "-----"
Prompt = Dialog
_MARKER = "user-turn-marker"


def read_prompts(
    paths: Iterable[Path], *, field: str = "prompts", bad: BadRecords | None = None, limit: int | None = None
) -> list[Prompt]:
    """Every prompt of the files, in order; errors name the field that they came by, the file and the line.

    A text file has prompts between lines of five dashes. A record of the other formats (records.py) has one of the
    layouts of chat/layouts.py, with a message of the user to be answered.

    Args:
        paths: files, folders of them, and datasets of the Hub.
        field: the argument that they came by.
        bad: what becomes of records that cannot be used; None: the first is an error.
        limit: reads no more than so many.

    Raises:
        InputError: if a file is missing, cannot be read, holds no prompt, or a record cannot be used.
    """
    bad = bad or BadRecords()
    files = data_files(list(paths), field)
    return list(islice(chain.from_iterable(_prompts_of(file, field, bad) for file in files), limit))


def _prompts_of(path: Path, field: str, bad: BadRecords) -> Iterator[Prompt]:
    if not is_text(path):
        for record in read_records(path, field, bad):
            try:
                prompt = dialog_of(with_known_names(record.fields), field=field, where=record.where, answers=False)
                prompt.rounds(field=field)
            except InputError as error:
                bad.add(error)
            else:
                yield prompt
        return
    parts = [part.strip("\n") for part in f"\n{read_text(path, field)}\n".split(f"\n{SEPARATOR}\n")]
    parts = [part for part in parts if part.strip()]
    if not parts:
        raise InputError(field, f"{path} holds no prompt")
    for number, part in enumerate(parts, start=1):
        yield user_dialog(part, where=f"{path}, prompt {number}")


def user_turn_end(template: ChatTemplate) -> tuple[list[int], list[str]]:
    """What the chat template has between a user's turn and the answer, as stop tokens and stop strings.

    The end of a turn is an end-of-text token of some targets only; others would write on, and answer themselves.
    """
    tokenizer = template.tokenizer
    ends = [_around_user_turn(template, answer_follows=follows)[1].strip() for follows in (False, True)]
    end = ends[0] or ends[1]
    if not end:
        return [], []
    first = int(tokenizer(end, add_special_tokens=False).input_ids[0])
    if first in tokenizer.all_special_ids or first in tokenizer.added_tokens_decoder:
        return [first], []
    return [], [end.splitlines()[0].strip()]


def user_turn_prefix(template: ChatTemplate, start: str = "") -> list[int]:
    """Token ids of the chat template up to the start of the user's first turn, for a target that asks itself.

    Raises:
        InputError: for a target without a chat template, or a start that no tokenizer takes.
    """
    if template.is_plain:
        raise InputError("self_prompts", "expected a target with a chat template, this one has none; give prompts")
    check_unicode(start, "self_prompt_starts", "a start")
    text = _around_user_turn(template, answer_follows=False)[0] + start
    return [int(token) for token in template.tokenizer(text, add_special_tokens=False).input_ids]


def _around_user_turn(template: ChatTemplate, *, answer_follows: bool) -> tuple[str, str]:
    """What the template writes before and behind the text of the user's first turn."""
    dialog = user_dialog(_MARKER)
    before, found, behind = template.text(dialog, dialog.messages, answer_follows=answer_follows).partition(_MARKER)
    if not found:
        raise InputError("self_prompts", "expected a chat template that renders the user's text; this one does not")
    return before, behind
