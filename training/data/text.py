"""Text to rows: all documents are one stream of tokens, which is cut into rows of one length."""

# Shapes: N tokens of the stream, R rows, L tokens of a row.

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vllm_mtp.common.errors import InputError
from vllm_mtp.training.data.chat.layouts import check_unicode
from vllm_mtp.training.data.record_formats import read_text
from vllm_mtp.training.data.records import OpenRecords, Record
from vllm_mtp.training.data.rows import Row, Source


def text_of(record: Record, field: str) -> str:
    """The document of a record.

    Raises:
        InputError: if its "text" is no string, or holds half a pair of surrogates.
    """
    text = record.fields.get("text")
    if not isinstance(text, str):
        raise InputError(field, f'{record.where}: expected "text" with a string, got {text!r:.60}')
    check_unicode(text, field, record.where)
    return text


def texts_of(documents: Iterable[Path | OpenRecords], field: str) -> Iterator[str]:
    """Every document in order: the whole of a file, a "text" of each record.

    Raises:
        InputError: for a file that cannot be read, or a bad record.
    """
    for document in documents:
        if isinstance(document, Path):
            yield read_text(document, field)
            continue
        for record in document.records:
            try:
                text = text_of(record, field)
            except InputError as error:
                document.bad.add(error)
                continue
            yield text


def token_stream(texts: Iterable[str], tokenizer: Any, max_tokens: int) -> Tensor:
    """Tokens of the documents one after another, each closed by the end-of-text token, at most about max_tokens.

    Returns:
        Token ids, [N], int64.
    """
    ids: list[int] = []
    for text in texts:
        ids += tokenizer(text, add_special_tokens=False, verbose=False).input_ids
        if tokenizer.eos_token_id is not None:
            ids.append(tokenizer.eos_token_id)
        if len(ids) >= max_tokens:
            break
    return torch.tensor(ids, dtype=torch.int64)


def text_source(texts: Iterable[str], tokenizer: Any, row_length: int, max_tokens: int) -> Source:
    """Rows of one length, each with the begin-of-text token in front where the tokenizer puts one before every text.

    Some targets predict badly without it. What is left at the end is shorter than a row and dropped.
    """
    stream_N = token_stream(texts, tokenizer, max_tokens)
    first = tokenizer("").input_ids[:1]
    if first != [tokenizer.bos_token_id]:  # what some tokenizers put there ends the text instead
        first = []
    length = row_length - len(first)
    num_rows = len(stream_N) // length
    rows_RL = stream_N[: num_rows * length].view(num_rows, length).int()
    rows_RL = torch.cat([torch.tensor([first], dtype=torch.int32).repeat(num_rows, 1), rows_RL], dim=1)
    rows = [Row.counted_from(ids_L, 1) for ids_L in rows_RL]
    return Source(name="text", rows=rows, complete=len(stream_N) < max_tokens)
