"""Text to windows: what a step sees depends on the step alone, and held-out text is never trained on.

Catches: a resumed run that sees other batches, an epoch that repeats the order of the one before or skips windows, a
held-out window in a batch, bad input that ends in a traceback or is passed over in silence.
"""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from vllm_mtp.training.data import PackedWindows, check_files, documents, token_stream

LENGTH = 5


def windows(num_windows: int, batch_size: int = 4, seed: int = 0) -> PackedWindows:
    """Windows of a stream that counts up: a window's first token over LENGTH is its number."""
    return PackedWindows(torch.arange(num_windows * LENGTH + 2), LENGTH, batch_size, seed)


def numbers(packed: PackedWindows, step: int) -> list[int]:
    batch = packed.batch(packed.batch_index(step))
    assert torch.equal(batch - batch[:, :1], torch.arange(LENGTH).expand(len(batch), -1))
    return (batch[:, 0] // LENGTH).tolist()


def test_a_batch_is_a_function_of_the_step() -> None:
    one, other = windows(30), windows(30)
    forwards = [numbers(one, step) for step in range(20)]
    backwards = [numbers(other, step) for step in reversed(range(20))]
    assert forwards == backwards[::-1]
    assert forwards != [numbers(windows(30, seed=1), step) for step in range(20)]


def test_epochs_permute_the_training_windows() -> None:
    packed = windows(21)  # 20 for training: 5 batches
    epochs = [[number for step in range(5) for number in numbers(packed, 5 * epoch + step)] for epoch in range(3)]
    assert all(sorted(epoch) == list(range(20)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in [*epochs, range(20)]}) == 4


@pytest.mark.parametrize(("num_windows", "num_held_out"), [(9, 1), (39, 1), (100, 5), (2000, 32)])
def test_held_out_windows_are_never_trained_on(num_windows: int, num_held_out: int) -> None:
    packed = windows(num_windows)
    held_out = set((packed.held_out_WL[:, 0] // LENGTH).tolist())
    assert held_out == set(range(num_windows - num_held_out, num_windows))
    seen = {number for step in range(3 * num_windows // 4) for number in numbers(packed, step)}
    assert seen == set(range(num_windows)) - held_out


def test_too_little_text() -> None:
    for batch_size in (1, 4, 100):
        assert len(windows(batch_size + 1, batch_size).held_out_WL) == 1
        fewest = (batch_size + 1) * LENGTH
        with pytest.raises(ValueError, match=rf"--data: expected at least {fewest} tokens .* got {fewest - 3}\."):
            windows(batch_size, batch_size)
    with pytest.raises(ValueError, match="got 0"):
        PackedWindows(torch.tensor([], dtype=torch.int64), LENGTH, 1, 0)


def test_documents(tmp_path: Path) -> None:
    text, lines = tmp_path / "a.txt", tmp_path / "b.jsonl"
    text.write_text("eins\n\nzwei ä", encoding="utf-8")
    records: list[dict[str, Any]] = [{"text": "drei"}, {"text": "vier\n", "path": "x"}]
    lines.write_text("\n\n".join(json.dumps(record) for record in records) + "\n", encoding="utf-8")
    assert list(documents([lines, text])) == ["drei", "vier\n", "eins\n\nzwei ä"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"text": "a"}\n{"text": \n', r"data\.jsonl:2 is not valid JSON"),
        (b'\n\n{"body": "a"}\n', r'data\.jsonl:3: expected an object with a "text" string, got {"body": "a"}'),
        (b'{"text": 3}\n', r'data\.jsonl:1: expected an object with a "text" string'),
        (b'["text"]\n', r'data\.jsonl:1: expected an object with a "text" string'),
        (b'{"text": "\xff"}\n', r"data\.jsonl is not UTF-8 text"),
        (b'{"text": "half a pair: \\ud83d"}\n', r"data\.jsonl:1: the text is not Unicode"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"^--data: .*{message}"):
        list(documents([path]))


def test_bad_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes("ä".encode("latin-1"))
    with pytest.raises(ValueError, match=r"^--data: .*latin\.txt is not UTF-8 text"):
        list(documents([tmp_path / "latin.txt"]))
    for path in (tmp_path, tmp_path / "absent.txt"):
        for check in (check_files, lambda paths: next(documents(paths))):
            with pytest.raises(
                ValueError, match=rf"^--data: expected text or JSONL files, got {path}, which is no file$"
            ):
                check([path])


def byte_tokenizer(eos_token_id: int | None) -> Any:
    """A stand-in: one token for each character; insists on the arguments that keep special tokens out."""

    class Tokenizer:
        def __init__(self) -> None:
            self.eos_token_id = eos_token_id

        def __call__(self, text: str, *, add_special_tokens: bool, verbose: bool) -> Any:
            assert not add_special_tokens
            return SimpleNamespace(input_ids=[ord(character) for character in text])

    return Tokenizer()


def test_token_stream(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a", "b", "c")]
    for path, text in zip(paths, ("ab", "cd", "ef"), strict=True):
        path.write_text(text)
    a, b, c = map(ord, "ace")
    whole = token_stream(paths, byte_tokenizer(0), max_tokens=100)
    assert whole.tolist() == [a, a + 1, 0, b, b + 1, 0, c, c + 1, 0]
    assert whole.dtype == torch.int64
    assert token_stream(paths, byte_tokenizer(None), max_tokens=100).tolist() == [a, a + 1, b, b + 1, c, c + 1]
    # Reads no further than is needed: the last file could be broken.
    paths[2].write_bytes(b"\xff")
    assert token_stream(paths, byte_tokenizer(0), max_tokens=6).tolist() == whole[:6].tolist()
