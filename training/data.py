"""Text to packed token windows. A step's batch is a function of the step alone, so that a resumed run sees the same."""

# Shapes: N tokens of the stream, W windows, L tokens of a window.

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_MAX_HELD_OUT_WINDOWS = 32


def check_files(paths: Sequence[Path]) -> None:
    """Finds a missing file before anything slow.

    Raises:
        ValueError: naming the first path that is no file.
    """
    for path in paths:
        if not path.is_file():
            raise ValueError(f"--data: expected text or JSONL files, got {path}, which is no file")


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


class PackedWindows:
    """A token stream cut into windows; the last ones are held out.

    Args:
        stream_N: token ids.
        window_length: L, one more than the tokens that the target sees, so that every position has a label.
        batch_size: windows per step.
        seed: decides the order.

    Raises:
        ValueError: if the stream does not fill one batch and one held-out window.
    """

    def __init__(self, stream_N: Tensor, window_length: int, batch_size: int, seed: int) -> None:
        num_windows = len(stream_N) // window_length
        num_held_out = max(1, min(_MAX_HELD_OUT_WINDOWS, num_windows // 20, num_windows - batch_size))
        self.num_train = num_windows - num_held_out
        if self.num_train < batch_size:
            raise ValueError(
                f"--data: expected at least {(batch_size + 1) * window_length} tokens (one batch of {batch_size} "
                f"sequences of {window_length} and one held out), got {len(stream_N)}. Give more text, or a smaller "
                "--batch-size or --sequence-length."
            )
        windows_WL = stream_N[: num_windows * window_length].view(num_windows, window_length)
        self.train_WL, self.held_out_WL = windows_WL[: self.num_train], windows_WL[self.num_train :]
        self.num_batches = -(-self.num_train // batch_size)
        self.seed = seed
        generator = torch.Generator().manual_seed(seed)
        members_W = torch.randperm(self.num_train, generator=generator)
        num_missing = (
            self.num_batches * batch_size - self.num_train
        )  # the last batch is filled up with the first windows
        self._members_NB = torch.cat((members_W, members_W[:num_missing])).view(self.num_batches, batch_size)

    def batch_index(self, step: int) -> int:
        """Which batch a step takes; every epoch has its own order of the same batches."""
        epoch, index = divmod(step, self.num_batches)
        generator = torch.Generator().manual_seed(self.seed * 100_003 + epoch)
        return int(torch.randperm(self.num_batches, generator=generator)[index])

    def batch(self, index: int) -> Tensor:
        """The windows of a batch, [batch_size, L]: drawn at random once, the same in every epoch."""
        return self.train_WL[self._members_NB[index]]
