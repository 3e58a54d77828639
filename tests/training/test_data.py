"""Text and conversations to rows.

Catches: text that is lost between files, a conversation cut in two or joined with another, a prompt that counts where
only answers should, bad input that ends in a traceback or is passed over in silence.
"""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from vllm_mtp.training.conversations import Conversation, save_conversations
from vllm_mtp.training.data import MIN_ROW_LENGTH, check_files, documents, read_sources, token_stream


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
                ValueError,
                match=rf"^--data: expected text or JSONL files, or folders of .*, got {path}, which is no file$",
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


def conversation(length: int, prompt_length: int, first: int = 0) -> Conversation:
    return Conversation(ids=tuple(range(first, first + length)), prompt_length=prompt_length, temperature=0.0)


def test_text_is_one_stream_and_a_conversation_a_row(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("abc" * 20)
    (tmp_path / "b.txt").write_text("d" * 50)
    (tmp_path / "set").mkdir()
    written = [conversation(30, 10), conversation(90, 20, first=100), conversation(MIN_ROW_LENGTH - 1, 2)]
    save_conversations(tmp_path / "set" / "conversations.npz", written)
    paths = [tmp_path / name for name in ("a.txt", "set", "b.txt")]
    text, conversations = read_sources(paths, byte_tokenizer(0), 40, 1000)
    assert [row.ids_L.tolist() for row in text] == [
        [ord(c) for c in ("abc" * 20)[:40]],
        [*map(ord, ("abc" * 20)[40:]), 0, *map(ord, "d" * 19)],
    ]
    assert [row.ids_L.tolist() for row in conversations] == [list(range(30)), list(range(100, 140))]
    assert {row.loss_from for row in [*text, *conversations]} == {1}
    _, answers = read_sources(paths, byte_tokenizer(0), 40, 1000, answers_only=True)
    assert [row.loss_from for row in answers] == [10, 20]
    assert read_sources(paths[1:2], byte_tokenizer(0), 15, 1000, answers_only=True) == [[]]  # nothing but prompts


def test_no_more_is_read_than_asked_for(tmp_path: Path) -> None:
    for name in ("one.npz", "two.npz"):
        save_conversations(tmp_path / name, [conversation(30, 10)] * 10)
    sources = read_sources([tmp_path / "one.npz", tmp_path / "two.npz"], byte_tokenizer(0), 40, 130)
    assert [len(rows) for rows in sources] == [5]
    sources = read_sources([tmp_path / "one.npz", tmp_path / "two.npz"], byte_tokenizer(0), 40, 330)
    assert [len(rows) for rows in sources] == [10, 1]
