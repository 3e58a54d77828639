"""Text and conversations to rows.

Catches: text that is lost between files, a conversation cut in two or joined with another, a prompt that counts where
only answers should, bad input that ends in a traceback or is passed over in silence.
"""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vllm_mtp.contract.fingerprint import tokenizer_sha256
from vllm_mtp.training.data.conversations import Conversation, save_conversations
from vllm_mtp.training.data.rows import MIN_ROW_LENGTH, Row
from vllm_mtp.training.data.sources import read_sources


def byte_tokenizer(eos_token_id: int | None, bos_token_id: int | None = None) -> Any:
    """A stand-in: one token for each character; insists on the arguments that keep special tokens out."""

    class Tokenizer:
        def __init__(self) -> None:
            self.eos_token_id, self.bos_token_id = eos_token_id, bos_token_id

        def __call__(self, text: str, *, add_special_tokens: bool = True, verbose: bool = True) -> Any:
            assert not (add_special_tokens and text)
            first = [bos_token_id] if add_special_tokens and bos_token_id is not None else []
            return SimpleNamespace(input_ids=[*first, *map(ord, text)])

        def get_vocab(self) -> dict[str, int]:
            return {"a": 97}

    return Tokenizer()


def conversation(length: int, prompt_length: int, first: int = 0) -> Conversation:
    return Conversation(ids=tuple(range(first, first + length)), prompt_length=prompt_length, temperature=0.0)


def test_text_is_one_stream_and_a_conversation_a_row(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("abc" * 20)
    (tmp_path / "b.txt").write_text("d" * 50)
    (tmp_path / "set").mkdir()
    written = [conversation(30, 10), conversation(90, 20, first=100), conversation(MIN_ROW_LENGTH - 1, 2)]
    save_conversations(tmp_path / "set" / "conversations.npz", written)
    paths = [tmp_path / name for name in ("a.txt", "set", "b.txt")]
    text, conversations = rows_of(paths, 1000)
    assert [row.ids_L.tolist() for row in text] == [
        [ord(c) for c in ("abc" * 20)[:40]],
        [*map(ord, ("abc" * 20)[40:]), 0, *map(ord, "d" * 19)],
    ]
    assert [row.ids_L.tolist() for row in conversations] == [list(range(30)), list(range(100, 140))]
    assert {first_that_counts(row) for row in [*text, *conversations]} == {1}
    _, answers = rows_of(paths, 1000, loss_on="answers")
    assert [first_that_counts(row) for row in answers] == [10, 20]
    [prompts] = read_sources(paths[1:2], byte_tokenizer(0), 19, 1000, vocab_size=1000, loss_on="answers")
    assert [row.ids_L.tolist() for row in prompts.rows] == [list(range(19))]
    assert str(prompts).endswith(
        "19 tokens, "
        "1 conversations cut at the end of a row (11 tokens left out, which a larger sequence_length reads), "
        "1 conversations left out, without an answer within a row's length, "
        "1 conversations left out, shorter than 16 tokens"
    )
    [whole] = rows_of(paths[1:2], 1000, row_length=15, loss_on="answers", cut_conversations=False)
    assert [len(row.ids_L) for row in whole] == [30, 90]


def first_that_counts(row: Row) -> int:
    """Where the loss begins; all that follows counts."""
    first = int(row.counts_L.int().argmax())
    assert row.counts_L[first:].all()
    return first


def rows_of(paths: list[Path], max_tokens: int, *, row_length: int = 40, **kwargs: Any) -> list[list[Row]]:
    sources = read_sources(paths, byte_tokenizer(0), row_length, max_tokens, vocab_size=1000, **kwargs)
    return [source.rows for source in sources]


def test_every_source_is_read_and_says_when_it_is_not_all(tmp_path: Path) -> None:
    """Catches a second source that is never read because the first is large."""
    for name, number in (("one.npz", 10), ("two.npz", 2)):
        save_conversations(tmp_path / name, [conversation(30, 10)] * number)
    (tmp_path / "text.txt").write_text("x" * 4000)
    paths = [tmp_path / name for name in ("text.txt", "one.npz", "two.npz")]
    read = read_sources(paths, byte_tokenizer(0), 40, 360, vocab_size=1000)
    assert [len(source.rows) for source in read] == [100, 4, 2]  # a document is read whole
    assert [source.complete for source in read] == [False, False, True]
    assert str(read[1]) == f"{paths[1]}: 120 tokens, its share of what is to be read"
    assert str(read[2]) == f"{paths[2]}: 60 tokens"
    (tmp_path / "more.txt").write_text("y" * 4000)
    unread = read_sources([paths[0], tmp_path / "more.txt"], byte_tokenizer(0), 40, 360, vocab_size=1000)[0]
    assert (unread.num_unread, read[0].num_unread) == (1, 0)
    # What one source leaves, the next may take.
    assert [len(rows) for rows in rows_of(paths[:0:-1], 360)] == [2, 10]
    assert [len(rows) for rows in rows_of(paths[1:2], 130)] == [5]


def test_rows_of_text_begin_as_every_text_does(tmp_path: Path) -> None:
    """Catches a target that is asked without the token that all its texts begin with."""
    (tmp_path / "a.txt").write_text("abc" * 20)
    [source] = read_sources([tmp_path / "a.txt"], byte_tokenizer(0, bos_token_id=7), 31, 1000, vocab_size=1000)
    assert [row.ids_L.tolist() for row in source.rows] == [[7, *map(ord, "abc" * 10)]] * 2


@pytest.mark.parametrize("bos_token_id", [None, 7])
def test_text_shorter_than_a_row_is_no_row(tmp_path: Path, bos_token_id: int | None) -> None:
    (tmp_path / "a.txt").write_text("abc")
    [source] = read_sources([tmp_path / "a.txt"], byte_tokenizer(0, bos_token_id), 31, 1000, vocab_size=1000)
    assert source.rows == []


def test_tokens_of_another_target_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    save_conversations(folder / "conversations.npz", [conversation(30, 10)])
    with pytest.raises(
        ValueError, match=r"^data: expected token ids below 29, the target's vocabulary, got 29 in .*set"
    ):
        read_sources([folder], byte_tokenizer(0), 40, 100, vocab_size=29)
    for vocabulary, refused in (({"a": 97}, False), ({"a": 98}, True)):
        target = {"name": "another", "tokenizer_sha256": tokenizer_sha256(vocabulary)}
        (folder / "run_info.json").write_text(json.dumps({"target": target}))
        if refused:
            with pytest.raises(ValueError, match="set, which another wrote with another tokenizer"):
                rows_of([folder], 100)
        else:
            assert len(rows_of([folder], 100)[0]) == 1
