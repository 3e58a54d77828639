"""Prompts for generation and benchmarks: text or JSONL, turned into token ids with the target's chat template."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm_mtp.common.errors import InputError

SEPARATOR = "-----"
Message = dict[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """One prompt of a file."""

    messages: tuple[Message, ...]
    """The conversation to be answered, `{"role": ..., "content": ...}` each; one user message for a plain prompt."""
    category: str = ""
    """What the file says of its kind; empty where it says nothing."""

    @property
    def text(self) -> str:
        """The last message's text, for targets without a chat template."""
        return self.messages[-1]["content"]


def read_prompts(paths: Iterable[Path], *, field: str = "prompts") -> list[Prompt]:
    """Every prompt of the files, in order; errors name the field that they came by.

    A text file has prompts between lines of five dashes. A line of a .jsonl file has a "prompt" string, or a list of
    "messages", or, as Spec-Bench has, "turns", of which the first is taken; "category" is optional.

    Raises:
        ValueError: if a file is missing, is not UTF-8, holds no prompt, or a line has none of the three.
    """
    prompts: list[Prompt] = []
    for path in paths:
        if not path.is_file():
            raise InputError(field, f"expected a text or JSONL file, got {path}, which is no file")
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise InputError(field, f"{path} is not UTF-8 text ({error.reason})") from error
        if path.suffix == ".jsonl":
            lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
            found = [_prompt_of_line(line, field, f"{path}:{number}") for number, line in lines]
        else:
            parts = [part.strip("\n") for part in f"\n{text}\n".split(f"\n{SEPARATOR}\n")]
            found = [_user_prompt(part) for part in parts if part.strip()]
        if not found:
            raise InputError(field, f"{path} holds no prompt")
        prompts += found
    return prompts


def _user_prompt(text: str, category: str = "") -> Prompt:
    return Prompt(messages=({"role": "user", "content": text},), category=category)


def _prompt_of_line(line: str, field: str, where: str) -> Prompt:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(field, f"{where} is not valid JSON ({error.msg})") from error
    if isinstance(record, dict):
        category = str(record.get("category", ""))
        messages, turns = record.get("messages"), record.get("turns")
        if isinstance(record.get("prompt"), str) and record["prompt"].strip():
            return _user_prompt(record["prompt"], category)
        if isinstance(turns, list) and turns and isinstance(turns[0], str):
            return _user_prompt(turns[0], category)
        if isinstance(messages, list) and messages and all(_is_message(message) for message in messages):
            # What comes after the last user message would be answered by somebody else.
            last = max((i for i, message in enumerate(messages) if message["role"] == "user"), default=-1)
            if last >= 0:
                kept = tuple({"role": m["role"], "content": m["content"]} for m in messages[: last + 1])
                return Prompt(messages=kept, category=category)
    raise InputError(
        field,
        f'{where}: expected a "prompt" string, "messages" with one of the user, or "turns" of strings, '
        f"got {line.strip()[:60]}",
    )


def _is_message(message: Any) -> bool:
    return (
        isinstance(message, dict) and isinstance(message.get("role"), str) and isinstance(message.get("content"), str)
    )


def prompt_ids(tokenizer: Any, messages: Sequence[Message], *, chat: bool = True) -> list[int]:
    """Token ids up to where the target's answer begins: the chat template, or the plain text where there is none.

    Raises:
        ValueError: if the template refuses the messages, as some do those of a system.
    """
    if chat and tokenizer.chat_template:
        from jinja2 import TemplateError

        try:
            ids = tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, return_dict=False)
        except TemplateError as error:
            roles = ", ".join(message["role"] for message in messages)
            raise InputError(
                "prompts",
                f"expected messages that the target's chat template takes, it refuses {roles}: {error}. "
                "Write what a system message says into the user's first message, as that target is served.",
            ) from error
    else:
        ids = tokenizer(messages[-1]["content"]).input_ids
    return [int(token) for token in ids]


def check_roles(tokenizer: Any, prompts: Iterable[Sequence[Message]]) -> None:
    """Tries one prompt of every sequence of roles, so that a template that refuses one does so before anything slow.

    Raises:
        ValueError: of `prompt_ids`.
    """
    prompt_of_roles = {tuple(message["role"] for message in prompt): prompt for prompt in prompts}
    for messages in prompt_of_roles.values():
        prompt_ids(tokenizer, messages)


def user_turn_end(tokenizer: Any) -> tuple[list[int], list[str]]:
    """What the chat template has between a user's turn and the answer, as stop tokens and stop strings.

    The end of a turn is an end-of-text token of some targets only; others would write on, and answer themselves.
    """
    marker = "user-turn-marker"
    messages = [{"role": "user", "content": marker}]
    ends = []
    for answer_follows in (False, True):
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=answer_follows)
        ends.append(text[text.index(marker) + len(marker) :].strip())
    end = ends[0] or ends[1]
    if not end:
        return [], []
    first = int(tokenizer(end, add_special_tokens=False).input_ids[0])
    if first in tokenizer.all_special_ids or first in tokenizer.added_tokens_decoder:
        return [first], []
    return [], [end.splitlines()[0].strip()]


def user_turn_prefix(tokenizer: Any, start: str = "") -> list[int]:
    """Token ids of the chat template up to the start of the user's first turn, for a target that asks itself.

    Raises:
        ValueError: for a target without a chat template.
    """
    if not tokenizer.chat_template:
        raise InputError("self_prompts", "expected a target with a chat template, this one has none; give prompts")
    marker = "user-turn-marker"
    text = tokenizer.apply_chat_template([{"role": "user", "content": marker}], tokenize=False)
    return [int(token) for token in tokenizer(text[: text.index(marker)] + start, add_special_tokens=False).input_ids]
