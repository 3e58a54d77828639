"""What a drafter is trained on, as rows of token ids: text in windows, conversations whole."""

# Shapes: N tokens of the stream, R rows, L tokens of a row.

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vllm_mtp.training.conversations import FILE, load_conversations

MIN_ROW_LENGTH = 16


def check_files(paths: Sequence[Path]) -> None:
    """Finds a missing file before anything slow.

    Raises:
        ValueError: naming the first path that is no file.
    """
    for path in paths:
        if not path.is_file() and not is_conversations(path):
            raise ValueError(
                f"--data: expected text or JSONL files, or folders of `vllm-mtp generate`, got {path}, which is no file"
            )


def documents(paths: Sequence[Path]) -> Iterator[str]:
    """Every document of the files: a line's "text" in .jsonl, otherwise the whole file.

    Raises:
        ValueError: for a file that does not exist, is not UTF-8, or a line without a "text" string.
    """
    check_files(paths)
    for path in paths:
        try:
            if path.suffix == ".jsonl":
                with path.open(encoding="utf-8") as file:
                    for number, line in enumerate(file, start=1):
                        if line.strip():
                            yield _text_of_line(line, f"{path}:{number}")
            else:
                yield path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"--data: {path} is not UTF-8 text ({error.reason})") from error


def _text_of_line(line: str, where: str) -> str:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"--data: {where} is not valid JSON ({error.msg})") from error
    text = record.get("text") if isinstance(record, dict) else None
    if not isinstance(text, str):
        raise ValueError(f'--data: {where}: expected an object with a "text" string, got {line.strip()[:60]}')
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"--data: {where}: the text is not Unicode ({error.reason})") from error
    return text


def token_stream(paths: Sequence[Path], tokenizer: Any, max_tokens: int) -> Tensor:
    """Tokens of the documents one after another, each closed by the end-of-text token, at most about max_tokens.

    Returns:
        Token ids, [N], int64.
    """
    ids: list[int] = []
    for text in documents(paths):
        ids += tokenizer(text, add_special_tokens=False, verbose=False).input_ids
        if tokenizer.eos_token_id is not None:
            ids.append(tokenizer.eos_token_id)
        if len(ids) >= max_tokens:
            break
    return torch.tensor(ids, dtype=torch.int64)


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One sequence that the drafter is trained on."""

    ids_L: Tensor
    """Token ids, int32."""
    loss_from: int
    """Index of the first token that counts in the loss; the ones before are context."""


def read_sources(
    paths: Sequence[Path], tokenizer: Any, row_length: int, max_tokens: int, *, answers_only: bool = False
) -> list[list[Row]]:
    """Rows of each source, in the order given: all text files together, and each set of conversations.

    Text is one stream cut into rows of row_length. A conversation is a row of its own, cut off at row_length, so that
    target and drafter see it as it is served.

    Args:
        paths: text files, JSONL, folders and .npz files of `vllm-mtp generate`.
        tokenizer: the target's.
        row_length: longest row, one more than the tokens that the target sees, so that every position has a label.
        max_tokens: reads no more than about this many.
        answers_only: the loss counts what the target wrote, not the prompts.
    """
    check_files(paths)
    text_paths = [path for path in paths if not is_conversations(path)]
    sources = []
    if text_paths:
        stream_N = token_stream(text_paths, tokenizer, max_tokens).int()
        num_rows = len(stream_N) // row_length
        rows_RL = stream_N[: num_rows * row_length].view(num_rows, row_length)
        sources.append([Row(ids_L=ids_L, loss_from=1) for ids_L in rows_RL])
        max_tokens -= len(stream_N)
    for path in paths:
        if not is_conversations(path) or max_tokens <= 0:
            continue
        rows = []
        for conversation in load_conversations(path):
            loss_from = conversation.prompt_length if answers_only else 1
            ids_L = torch.tensor(conversation.ids[:row_length], dtype=torch.int32)
            if len(ids_L) >= MIN_ROW_LENGTH and loss_from < len(ids_L):
                rows.append(Row(ids_L=ids_L, loss_from=max(1, loss_from)))
                max_tokens -= len(ids_L)
            if max_tokens <= 0:
                break
        sources.append(rows)
    return sources


def is_conversations(path: Path) -> bool:
    """Whether a path is what `vllm-mtp generate` writes."""
    return path.suffix == ".npz" or (path / FILE).is_file()
