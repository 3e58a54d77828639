"""Documents to one stream of tokens.

Catches: text that is lost between files, a document that is read though nothing of it is needed, bad input that ends in
a traceback or is passed over in silence.
"""

import gzip
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from vllm_mtp.training.data.records import OpenRecords, open_records
from vllm_mtp.training.data.text import texts_of, token_stream


class Characters:
    """A tokenizer with one token for each character, that insists on being asked for no special tokens."""

    def __init__(self, eos_token_id: int | None) -> None:
        self.eos_token_id = eos_token_id

    def __call__(self, text: str, *, add_special_tokens: bool, verbose: bool) -> Any:
        assert not add_special_tokens
        return SimpleNamespace(input_ids=[*map(ord, text)])


def records_in(path: Path, *, skip_bad: bool = False) -> OpenRecords:
    return open_records(path, [path], "data", skip_bad=skip_bad)


def texts(*documents: Path | OpenRecords) -> list[str]:
    return list(texts_of(documents, "data"))


def test_documents_of_files_and_of_records(tmp_path: Path) -> None:
    text, lines = tmp_path / "a.txt", tmp_path / "b.jsonl"
    text.write_text("eins\n\nzwei ä", encoding="utf-8")
    records: list[dict[str, Any]] = [{"text": "drei"}, {"text": "vier\n", "path": "x"}]
    lines.write_text("\n\n".join(json.dumps(record) for record in records) + "\n", encoding="utf-8")
    assert texts(records_in(lines), text) == ["drei", "vier\n", "eins\n\nzwei ä"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"text": \n', r"data\.jsonl:3 is not valid JSON"),
        (b'{"body": "a"}\n', r'data\.jsonl:3: expected "text" with a string, got None'),
        (b'{"text": 3}\n', r'data\.jsonl:3: expected "text" with a string, got 3'),
        (b'"text"\n', r'data\.jsonl:3: expected an object, got "text"'),
        (b'{"text": "\xff"}\n', r"data\.jsonl:3 is not UTF-8 text"),
        (b'{"text": "half a pair: \\ud83d"}\n', r"data\.jsonl:3: expected Unicode text"),
    ],
)
def test_a_bad_line_is_named_or_left_out_and_counted(tmp_path: Path, line: bytes, message: str) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(b'{"text": "a"}\n\n' + line + b'{"text": "b"}\n')
    with pytest.raises(ValueError, match=f"^data: .*{message}"):
        texts(records_in(path))
    opened = records_in(path, skip_bad=True)
    assert texts(opened) == ["a", "b"]
    assert (opened.bad.num, str(path) in opened.bad.first) == (1, True)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("latin.txt", "ä".encode("latin-1"), "is not UTF-8 text"),
        ("wide.txt", "text".encode("utf-16"), "is not UTF-8 text"),
        ("empty.txt", b"", "is empty"),
        ("blank.txt", b" \n\n", "is empty"),
        ("binary.txt", b"text\0\0", "got binary data"),
        ("cut.txt.gz", gzip.compress(b"text" * 99, mtime=0)[:-9], "cannot be read"),
        ("chat.txt", b'{"messages": []}\n{"messages": []}\n', r"got JSON: name it \.jsonl"),
        ("chats.md", b'\n[\n {"conversations":\n  []}\n]\n', r"got JSON: name it \.jsonl"),
        ("one.txt", b'{\n "messages": []\n}\n', r"got JSON: name it \.jsonl"),
    ],
)
def test_a_file_that_is_no_text_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"^data: .*{name}.*{message}"):
        texts(tmp_path / name)


def test_text_that_looks_like_json_is_text(tmp_path: Path) -> None:
    """Catches prose or code refused for a brace at its beginning."""
    path = tmp_path / "a.txt"
    for text in ("[1] Smith\n[2] Jones\n", "{x} is a set.\n", '{"a": 1}\nis an object of JSON.\n'):
        path.write_text(text)
        assert texts(path) == [text]


def test_text_of_other_systems(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\r")
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(b"three"))
    assert texts(tmp_path / "a.txt", tmp_path / "b.txt.gz") == ["one\ntwo\n", "three"]


def test_token_stream(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a", "b", "c")]
    for path, text in zip(paths, ("ab", "cd", "ef"), strict=True):
        path.write_text(text)

    def stream(eos_token_id: int | None, max_tokens: int) -> torch.Tensor:
        return token_stream(texts_of(paths, "data"), Characters(eos_token_id), max_tokens)

    a, b, c = map(ord, "ace")
    whole = stream(0, 100)
    assert whole.tolist() == [a, a + 1, 0, b, b + 1, 0, c, c + 1, 0]
    assert whole.dtype == torch.int64
    assert stream(None, 100).tolist() == [a, a + 1, b, b + 1, c, c + 1]
    # Reads no further than is needed: the last file could be broken.
    paths[2].write_bytes(b"\xff")
    assert stream(0, 6).tolist() == whole[:6].tolist()
