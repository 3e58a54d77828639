"""Conversations that exist, rendered whole as the target is served, as rows whose answers count."""

# Shapes: L tokens of a row.

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from tqdm import tqdm

from vllm_mtp.common.errors import InputError
from vllm_mtp.training.data.chat.layouts import dialog_of
from vllm_mtp.training.data.chat.template import ChatTemplate, Rendered
from vllm_mtp.training.data.embedding_rows import too_large_an_id
from vllm_mtp.training.data.layouts import with_known_names
from vllm_mtp.training.data.records import OpenRecords, Record
from vllm_mtp.training.data.rows import Row, Source, conversation_source


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
    bar = tqdm(opened.records, desc=opened.name, unit=" records", disable=not show_progress, mininterval=1)
    rows = _rows(bar, opened, template, loss_on, vocab_size)
    source = conversation_source(opened.name, rows, longest, max_tokens)
    bar.close()
    return replace(source, num_bad=opened.bad.num, first_bad=opened.bad.first)


def _rows(records: Any, opened: OpenRecords, template: ChatTemplate, loss_on: str, vocab_size: int) -> Iterator[Row]:
    for record in records:
        try:
            rendered = _rendered(record, template, vocab_size)
        except InputError as error:
            opened.bad.add(error)
            continue
        yield from (_row(one, loss_on) for one in rendered)


def _rendered(record: Record, template: ChatTemplate, vocab_size: int) -> list[Rendered]:
    dialog = dialog_of(with_known_names(record.fields), field="data", where=record.where)
    rendered = template.rows(dialog)
    largest = max(max(one.ids) for one in rendered)
    if largest >= vocab_size:
        raise InputError("data", f"{record.where}: {too_large_an_id(largest, vocab_size, template.tokenizer)}")
    return rendered


def _row(rendered: Rendered, loss_on: str) -> Row:
    ids_L = torch.tensor(rendered.ids, dtype=torch.int32)
    if loss_on == "all":
        return Row.counted_from(ids_L, 1)
    return Row.counted_in(ids_L, rendered.answers)
