"""What a drafter is trained on, as rows of token ids: text in windows, conversations whole."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vllm_mtp.common.errors import InputError
from vllm_mtp.training.data.chat.options import TemplateOptions
from vllm_mtp.training.data.chat.template import ChatTemplate
from vllm_mtp.training.data.chats import chat_source
from vllm_mtp.training.data.embedding_rows import too_large_an_id
from vllm_mtp.training.data.generated import generated_source, is_generated, names_its_tokenizer
from vllm_mtp.training.data.layouts import is_document
from vllm_mtp.training.data.records import OpenRecords, Record, data_files, is_text, open_records
from vllm_mtp.training.data.rows import Source, num_tokens
from vllm_mtp.training.data.text import text_source, texts_of

_FIELD = "data"


def check_files(paths: Sequence[Path]) -> None:
    """Finds a missing file, or one of another format, before anything slow.

    Raises:
        ValueError: naming the first path that cannot be read.
    """
    data_files([path for path in paths if not is_generated(path)], _FIELD)


@dataclass(kw_only=True, slots=True)
class _Found:
    """What the paths hold, nothing of it read to its end."""

    documents: list[Path | OpenRecords] = field(default_factory=list)
    """Files of text, and records that have one each."""
    conversations: list[Path | OpenRecords] = field(default_factory=list)
    """What `vllm-mtp generate` wrote, and conversations of others."""


def read_sources(
    paths: Sequence[Path],
    tokenizer: Any,
    row_length: int,
    max_tokens: int,
    *,
    vocab_size: int,
    loss_on: str | None = None,
    cut_conversations: bool = True,
    template: TemplateOptions | None = None,
    skip_bad: bool = False,
    show_progress: bool = False,
) -> list[Source]:
    """Rows of all text together, and of each set of conversations in the order given.

    Text is one stream cut into rows of row_length (`text.py`). A conversation is a row of its own, cut off at
    row_length, so that target and drafter see it as it is served. A source that needs less than its equal share of
    max_tokens leaves the rest to those after it, text being the last.

    Args:
        paths: files, folders and datasets as `records.py` reads them, folders and .npz files of `vllm-mtp generate`.
        tokenizer: the target's.
        row_length: longest row, one more than the tokens that the target sees, so that every position has a label.
        max_tokens: reads no more than about this many.
        vocab_size: the target's.
        loss_on: what counts in conversations, "all" or "answers"; None: all of what the target wrote, and the answers
            of what others wrote.
        cut_conversations: False: conversations stay whole.
        template: how conversations that exist are rendered; None: by the target's own chat template.
        skip_bad: leave out records that cannot be used, and count them.
        show_progress: draw bars on standard error.

    Raises:
        ValueError: for files that cannot be read, or that hold token ids of another target.
    """
    check_files(paths)
    found = _open(paths, skip_bad)
    num_unread = len(found.conversations) + bool(found.documents)
    longest = row_length if cut_conversations else None
    sources: list[Source] = []
    chat: ChatTemplate | None = None
    for one in found.conversations:
        share = max_tokens // num_unread
        if isinstance(one, Path):
            source = generated_source(one, tokenizer, longest, share, loss_on or "all")
        else:
            chat = chat or ChatTemplate(tokenizer, template, field=_FIELD)
            source = chat_source(
                one, chat, longest, share, loss_on=loss_on or "answers", vocab_size=vocab_size,
                show_progress=show_progress,
            )  # fmt: skip
            source = replace(source, num_unread=len(one.unread))
        _check_ids(source, vocab_size, tokenizer, one)
        sources.append(source)
        max_tokens -= num_tokens(source.rows)
        num_unread -= 1
    if found.documents:
        sources.insert(0, _text(found.documents, tokenizer, row_length, max_tokens))
        _check_ids(sources[0], vocab_size, tokenizer)
    return sources


def _open(paths: Sequence[Path], skip_bad: bool) -> _Found:
    """Sorts the paths by what they hold: by name, or, of records, by the first that can be used."""
    found = _Found()
    for path in paths:
        if is_generated(path):
            found.conversations.append(path)
            continue
        files = data_files([path], _FIELD)
        found.documents += [file for file in files if is_text(file)]
        of_records = [file for file in files if not is_text(file)]
        if of_records:
            opened = open_records(path, of_records, _FIELD, skip_bad=skip_bad)
            first, holds_text = _first_usable(opened)
            opened = replace(opened, records=itertools.chain([first], opened.records))
            (found.documents if holds_text else found.conversations).append(opened)
    return found


def _first_usable(opened: OpenRecords) -> tuple[Record, bool]:
    """The first record of a known layout, and whether it is a document of text."""
    for record in opened.records:
        try:
            return record, is_document(record, _FIELD)
        except InputError as error:
            opened.bad.add(error)
    reason = f": {opened.bad.first}" if opened.bad.num else ""
    raise InputError(_FIELD, f"{opened.name} holds no record that can be used{reason}")


def _text(documents: Sequence[Path | OpenRecords], tokenizer: Any, row_length: int, max_tokens: int) -> Source:
    waiting = [*documents]
    in_turn = (waiting.pop(0) for _ in range(len(waiting)))
    source = text_source(texts_of(in_turn, _FIELD), tokenizer, row_length, max_tokens)
    of_records = [one for one in documents if isinstance(one, OpenRecords)]
    bad = [one.bad for one in of_records if one.bad.num]
    return replace(
        source,
        num_bad=sum(one.num for one in bad),
        first_bad=bad[0].first if bad else "",
        num_unread=len(waiting) + sum(len(one.unread) for one in of_records),
    )


def _check_ids(source: Source, vocab_size: int, tokenizer: Any, path: Path | OpenRecords | None = None) -> None:
    """Refuses tokens that the target's embedding does not have."""
    largest = max((int(row.ids_L.max()) for row in source.rows), default=0)
    if largest < vocab_size:
        return
    if isinstance(path, Path) and not names_its_tokenizer(path):
        raise InputError(
            _FIELD,
            f"expected token ids below {vocab_size}, the target's vocabulary, got {largest} in {source.name}: "
            "it belongs to another target",
        )
    raise InputError(_FIELD, f"{source.name}: {too_large_an_id(largest, vocab_size, tokenizer)}")
