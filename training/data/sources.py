"""What a drafter is trained on, as rows of token ids: text in windows, conversations whole."""

# Shapes: N tokens of the stream, R rows, L tokens of a row.

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vllm_mtp.common.errors import InputError
from vllm_mtp.contract.fingerprint import tokenizer_sha256
from vllm_mtp.training.checkpoint import RUN_INFO
from vllm_mtp.training.data.conversations import CONVERSATIONS_FILE, load_conversations

MIN_ROW_LENGTH = 16


def check_files(paths: Sequence[Path]) -> None:
    """Finds a missing file before anything slow.

    Raises:
        ValueError: naming the first path that is no file.
    """
    for path in paths:
        if not path.is_file() and not is_conversations(path):
            raise InputError(
                "data",
                f"expected text or JSONL files, or folders of `vllm-mtp generate`, got {path}, which is no file",
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
            raise InputError("data", f"{path} is not UTF-8 text ({error.reason})") from error


def _text_of_line(line: str, where: str) -> str:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError("data", f"{where} is not valid JSON ({error.msg})") from error
    text = record.get("text") if isinstance(record, dict) else None
    if not isinstance(text, str):
        raise InputError("data", f'{where}: expected an object with a "text" string, got {line.strip()[:60]}')
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError("data", f"{where}: the text is not Unicode ({error.reason})") from error
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """What was read of all text files together, or of one set of conversations."""

    name: str
    rows: list[Row]
    complete: bool
    """Whether its share of the tokens was more than there is."""
    num_left_out: int = 0
    """Conversations that are too short, or have no answer within the length of a row."""

    def __str__(self) -> str:
        parts = [f"{self.name}: {sum(len(row.ids_L) for row in self.rows):,} tokens"]
        if not self.complete:
            parts.append("its share of what is to be read")
        if self.num_left_out:
            parts.append(f"{self.num_left_out:,} conversations left out, without an answer within a row's length")
        return ", ".join(parts)


def read_sources(
    paths: Sequence[Path],
    tokenizer: Any,
    row_length: int,
    max_tokens: int,
    *,
    vocab_size: int,
    answers_only: bool = False,
    cut_conversations: bool = True,
) -> list[Source]:
    """Rows of all text files together, and of each set of conversations in the order given.

    Text is one stream cut into rows of row_length, each with the begin-of-text token in front where the tokenizer puts
    one before every text: some targets predict badly without it. A conversation is a row of its own, cut off at
    row_length, so that target and drafter see it as it is served. A source that needs less than its equal share of
    max_tokens leaves the rest to those after it, text being the last.

    Args:
        paths: text files, JSONL, folders and .npz files of `vllm-mtp generate`.
        tokenizer: the target's.
        row_length: longest row, one more than the tokens that the target sees, so that every position has a label.
        max_tokens: reads no more than about this many.
        vocab_size: the target's.
        answers_only: the loss counts what the target wrote, not the prompts.
        cut_conversations: False: conversations stay whole.

    Raises:
        ValueError: for files that cannot be read, or that hold token ids of another target.
    """
    check_files(paths)
    text_paths = [path for path in paths if not is_conversations(path)]
    conversation_paths = [path for path in paths if is_conversations(path)]
    num_unread = len(conversation_paths) + bool(text_paths)
    sources = []
    for path in conversation_paths:
        _check_tokenizer(path, tokenizer)
        longest = row_length if cut_conversations else None
        sources.append(_conversations(path, longest, max_tokens // num_unread, answers_only))
        max_tokens -= sum(len(row.ids_L) for row in sources[-1].rows)
        num_unread -= 1
    if text_paths:
        sources.insert(0, _text(text_paths, tokenizer, row_length, max_tokens))
    for source in sources:
        largest = max((int(row.ids_L.max()) for row in source.rows), default=0)
        if largest >= vocab_size:
            raise InputError(
                "data",
                f"expected token ids below {vocab_size}, the target's vocabulary, got {largest} in {source.name}: "
                "it belongs to another target",
            )
    return sources


def _text(paths: Sequence[Path], tokenizer: Any, row_length: int, max_tokens: int) -> Source:
    stream_N = token_stream(paths, tokenizer, max_tokens)
    first = tokenizer("").input_ids[:1]
    if first != [tokenizer.bos_token_id]:  # what some tokenizers put there ends the text instead
        first = []
    length = row_length - len(first)
    num_rows = len(stream_N) // length
    rows_RL = stream_N[: num_rows * length].view(num_rows, length).int()
    rows_RL = torch.cat([torch.tensor([first] * num_rows, dtype=torch.int32).view(num_rows, -1), rows_RL], dim=1)
    rows = [Row(ids_L=ids_L, loss_from=1) for ids_L in rows_RL]
    return Source(name="text", rows=rows, complete=len(stream_N) < max_tokens)


def _conversations(path: Path, longest: int | None, max_tokens: int, answers_only: bool) -> Source:
    rows: list[Row] = []
    num_left_out = 0
    try:
        conversations = load_conversations(path)
    except ValueError as error:
        raise InputError("data", str(error)) from error
    for conversation in conversations:
        if max_tokens <= 0:
            return Source(name=str(path), rows=rows, complete=False, num_left_out=num_left_out)
        loss_from = conversation.prompt_length if answers_only else 1
        ids_L = torch.tensor(conversation.ids[:longest], dtype=torch.int32)
        if len(ids_L) >= MIN_ROW_LENGTH and loss_from < len(ids_L):
            rows.append(Row(ids_L=ids_L, loss_from=max(1, loss_from)))
            max_tokens -= len(ids_L)
        else:
            num_left_out += 1
    return Source(name=str(path), rows=rows, complete=True, num_left_out=num_left_out)


def _check_tokenizer(path: Path, tokenizer: Any) -> None:
    """Refuses a folder of `vllm-mtp generate` whose target had another tokenizer; an .npz alone does not say."""
    if not (path / RUN_INFO).is_file():
        return
    target = json.loads((path / RUN_INFO).read_text(encoding="utf-8"))["target"]
    if target["tokenizer_sha256"] != tokenizer_sha256(tokenizer.get_vocab()):
        raise InputError(
            "data",
            f"expected conversations in the target's own tokens, got {path}, which {target['name']} wrote with "
            "another tokenizer",
        )


def is_conversations(path: Path) -> bool:
    """Whether a path is what `vllm-mtp generate` writes."""
    return path.suffix == ".npz" or (path / CONVERSATIONS_FILE).is_file()
