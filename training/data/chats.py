"""Conversations that exist, rendered whole as the target is served, as rows whose answers count."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from tqdm import tqdm

from vllm_mtp.common.errors import InputError
from vllm_mtp.training.data.chat.dialog import Dialog
from vllm_mtp.training.data.chat.layouts import dialog_of
from vllm_mtp.training.data.chat.template import ChatTemplate, Rendered
from vllm_mtp.training.data.embedding_rows import too_large_an_id
from vllm_mtp.training.data.layouts import with_known_names
from vllm_mtp.training.data.records import BadRecords, OpenRecords, Record
from vllm_mtp.training.data.rows import Row, Source, conversation_source

_FIELD = "data"
_CHUNK = 256
"""Conversations that the tokenizer's own threads share."""
_MOST_LOOKED_AT = 10_000
"""Conversations that are looked at for what the template does not read."""


def chat_source(
    opened: OpenRecords,
    template: ChatTemplate,
    longest: int | None,
    max_tokens: int,
    *,
    loss_on: str,
    vocab_size: int,
    show_progress: bool = False,
) -> Source:
    """Rows of conversations that others wrote.

    Args:
        opened: the records.
        template: the target's.
        longest: tokens that a row is cut off at; None: they stay whole.
        max_tokens: reads no more than about this many.
        loss_on: "all" of a conversation, or its "answers".
        vocab_size: the target's.
        show_progress: draw a bar on standard error.

    Raises:
        ValueError: for a record that is no conversation with an answer, or that the template refuses.
    """
    with tqdm(opened.records, desc=opened.name, unit=" records", disable=not show_progress, mininterval=1) as bar:
        first: list[Dialog] = []
        dialogs = _kept_first(_dialogs(bar, opened.bad), first)
        chunks = iter(lambda: list(itertools.islice(dialogs, _CHUNK)), [])
        rendered = (turns for chunk in chunks for turns in _rendered(chunk, template, vocab_size, opened.bad))
        rows = (
            Row.of_conversation(one.ids, one.answers, loss_on, number)
            for number, turns in enumerate(rendered)
            for one in turns
        )
        source = conversation_source(opened.name, rows, longest, max_tokens)
    note = template.note_of_passed_over(first)
    return replace(source, num_bad=opened.bad.num, first_bad=opened.bad.first, note=note)


def _dialogs(records: Iterable[Record], bad: BadRecords) -> Iterator[Dialog]:
    for record in records:
        try:
            dialog = dialog_of(with_known_names(record.fields), field=_FIELD, where=record.where)
        except InputError as error:
            bad.add(error)
            continue
        yield dialog


def _kept_first(dialogs: Iterable[Dialog], first: list[Dialog]) -> Iterator[Dialog]:
    """The conversations as they are; the first of them are appended to a list."""
    for dialog in dialogs:
        if len(first) < _MOST_LOOKED_AT:
            first.append(dialog)
        yield dialog


def _rendered(
    dialogs: Sequence[Dialog], template: ChatTemplate, vocab_size: int, bad: BadRecords
) -> list[list[Rendered]]:
    """The rows of each of several conversations, together; one by one where one of them cannot be rendered."""
    try:
        rows_of_dialogs = template.rows_of(dialogs)
        for dialog, rows in zip(dialogs, rows_of_dialogs, strict=True):
            _check_ids(dialog, rows, vocab_size, template.tokenizer)
    except InputError as error:
        if len(dialogs) > 1:
            return [rows for dialog in dialogs for rows in _rendered([dialog], template, vocab_size, bad)]
        bad.add(error)
        return []
    return rows_of_dialogs


def _check_ids(dialog: Dialog, rows: Sequence[Rendered], vocab_size: int, tokenizer: Any) -> None:
    largest = max((max(row.ids) for row in rows if row.ids), default=0)
    if largest >= vocab_size:
        raise InputError(_FIELD, f"{dialog.where}: {too_large_an_id(largest, vocab_size, tokenizer)}")
