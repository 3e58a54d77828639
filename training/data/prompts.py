"""Prompts for generation and benchmarks, out of text and JSONL files, and user turns that a target writes itself."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from vllm_mtp.common.errors import InputError
from vllm_mtp.training.data.chat.dialog import Dialog
from vllm_mtp.training.data.chat.layouts import check_unicode, dialog_of, user_dialog
from vllm_mtp.training.data.chat.template import ChatTemplate

SEPARATOR = "-----"
Prompt = Dialog
_MARKER = "user-turn-marker"


def read_prompts(paths: Iterable[Path], *, field: str = "prompts", bad: list[InputError] | None = None) -> list[Prompt]:
    """Every prompt of the files, in order; errors name the field that they came by, the file and the line.

    A text file has prompts between lines of five dashes. A line of a .jsonl file has one of the layouts of
    chat/layouts.py, with a message of the user to be answered.

    Args:
        paths: the files.
        field: the argument that they came by.
        bad: takes the errors of lines that cannot be used, which are left out then; None: the first is raised.

    Raises:
        InputError: if a file is missing, is not UTF-8, holds no prompt, or a line cannot be used.
    """
    prompts: list[Prompt] = []
    for path in paths:
        num_before, num_bad = len(prompts), len(bad or ())
        for make in _prompts_of(path, _text_of(path, field), field):
            try:
                prompts.append(make())
            except InputError as error:
                if bad is None:
                    raise
                bad.append(error)
        if len(prompts) == num_before and len(bad or ()) == num_bad:
            raise InputError(field, f"{path} holds no prompt")
    return prompts


def _text_of(path: Path, field: str) -> str:
    if not path.is_file():
        raise InputError(field, f"expected a text or JSONL file, got {path}, which is no file")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(field, f"{path} is not UTF-8 text ({error.reason})") from error


def _prompts_of(path: Path, text: str, field: str) -> Iterator[Any]:
    """For each prompt what makes it, or raises what is wrong with it."""
    if path.suffix.lower() in (".jsonl", ".ndjson"):
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                yield lambda line=line, number=number: _prompt_of_line(line, field, f"{path}:{number}")
        return
    parts = [part.strip("\n") for part in f"\n{text}\n".split(f"\n{SEPARATOR}\n")]
    for number, part in enumerate((part for part in parts if part.strip()), start=1):
        yield lambda part=part, number=number: user_dialog(part, where=f"{path}, prompt {number}")


def _prompt_of_line(line: str, field: str, where: str) -> Prompt:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(field, f"{where} is not valid JSON ({getattr(error, 'msg', error)})") from error
    prompt = dialog_of(record, field=field, where=where)
    prompt.rounds(field=field)
    return prompt


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
