"""The draft vocabulary: which ids, how much they cover, what a wrong file says.

Catches: a drafter that can never draft the end of a turn, ids taken blindly without a word.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch

from vllm_mtp.cli import main
from vllm_mtp.training.data import draft_vocab
from vllm_mtp.training.data.conversations import Conversation, save_conversations
from vllm_mtp.training.data.draft_vocab import (
    choose_draft_ids,
    count_tokens,
    coverage,
    load_draft_vocab,
    save_draft_vocab,
)
from vllm_mtp.training.data.rows import Row


def test_special_tokens_and_the_most_frequent() -> None:
    counts_V = torch.tensor([0, 5, 9, 0, 7, 5, 0])
    assert choose_draft_ids(counts_V, 3, [6]).tolist() == [2, 4, 6]
    assert choose_draft_ids(counts_V, 4, [6, 0, 99]).tolist() == [0, 2, 4, 6]
    assert choose_draft_ids(counts_V, 3, []).tolist() == [1, 2, 4]  # of 1 and 5, equally frequent, the lower
    assert choose_draft_ids(counts_V, 7, []).tolist() == list(range(7))
    for size in (0, 1, 8):
        with pytest.raises(ValueError, match=rf"^size: expected 2 .* to 7 .*, got {size}"):
            choose_draft_ids(counts_V, size, [6, 0])


def test_counts_and_coverage() -> None:
    rows = [Row.counted_from(torch.tensor([1, 1, 2, 3], dtype=torch.int32), start) for start in (1, 2)]
    counts_V = count_tokens([rows], 6)
    assert counts_V.tolist() == [0, 1, 2, 2, 0, 0]
    assert coverage(counts_V, torch.tensor([0, 2, 3])) == pytest.approx(4 / 5)
    assert coverage(torch.zeros(6, dtype=torch.int64), torch.tensor([0])) == 0


def test_the_file(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "vocab.json"
    save_draft_vocab(path, torch.tensor([0, 4, 9]), {"size": 3})
    assert load_draft_vocab(path, 10, "a").tolist() == [0, 4, 9]
    with pytest.raises(ValueError, match="ascending token ids below 9"):
        load_draft_vocab(path, 9, "a")
    save_draft_vocab(path, torch.tensor([0, 4, 9]), {"tokenizer_sha256": "a"})
    assert load_draft_vocab(path, 10, "a").tolist() == [0, 4, 9]
    with pytest.raises(ValueError, match=r"^draft_vocab: .*vocab\.json was made for another tokenizer"):
        load_draft_vocab(path, 10, "b")
    for content in ({"draft_ids": [3, 3]}, {"draft_ids": [-1, 3]}, {"draft_ids": []}, {"draft_ids": "x"}, {}, []):
        path.write_text(json.dumps(content))
        with pytest.raises(ValueError, match=r"^draft_vocab: expected"):
            load_draft_vocab(path, 10, "a")
    with pytest.raises(ValueError, match=r"^draft_vocab: expected a file of `vllm-mtp vocab`"):
        load_draft_vocab(tmp_path / "absent.json", 10, "a")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--size", "100000"], "--size: expected 1 (the special tokens) to "),
        (["--size", "9", "--max-tokens", "0"], "--max-tokens: expected at least 1, got 0"),
        (["--size", "9", "--output", "folder"], "--output: expected a file, got folder, which is a folder"),
        (["--size", "9", "--output", "config.json"], "--output: config.json is something else than a draft vocabulary"),
    ],
    ids=["size", "tokens", "a folder", "a target's config"],
)
def test_what_cannot_be_is_said_before_anything_is_read(
    more: list[str], message: str, target_dir: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(draft_vocab, "read_sources", lambda *args, **kwargs: pytest.fail("read the data"))
    (tmp_path / "folder").mkdir()
    for name in ("config.json", "text.txt"):
        (tmp_path / name).write_text('{"hidden_size": 8}')
    assert main(["vocab", str(target_dir), "--data", "text.txt", "--output", "new.json", *more]) == 2
    assert message in capsys.readouterr().err
    assert (tmp_path / "config.json").read_text() == '{"hidden_size": 8}'


def test_every_end_of_an_answer_is_in_it(
    target_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    target, text, vocab = tmp_path / "target", tmp_path / "text.txt", tmp_path / "vocab.json"
    shutil.copytree(target_dir, target)
    (target / "generation_config.json").write_text('{"eos_token_id": [1999, 2000]}')
    text.write_text("def f(x):\n    return x\n" * 200)
    command = ["vocab", "--target", str(target), "--data", str(text), "--output", str(vocab)]
    assert main([*command, "--size", "9"]) == 0
    assert {1999, 2000} <= set(json.loads(vocab.read_text())["draft_ids"])
    assert "never occur" not in capsys.readouterr().out
    assert main([*command, "--size", "1000"]) == 0
    assert "of these ids never occur and are merely the lowest" in capsys.readouterr().out
    monkeypatch.setattr(draft_vocab, "read_sources", lambda *args, **kwargs: pytest.fail("read the data"))
    assert main([*command, "--size", "2"]) == 2
    assert "--size: expected 3 (the special tokens) to " in capsys.readouterr().err


def test_answers_to_long_prompts_count(target_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, vocab = tmp_path / "long.npz", tmp_path / "vocab.json"
    ids = (*[5] * 900, *[1234] * 30)
    save_conversations(data, [Conversation(ids=ids, prompt_length=900, temperature=0.0)] * 40)
    command = ["vocab", "--target", str(target_dir), "--data", str(data), "--output", str(vocab), "--size", "9"]
    assert main(command) == 0
    written = json.loads(vocab.read_text())
    assert 1234 in written["draft_ids"]
    assert written["num_tokens"] == 38 * 30
    save_conversations(data, [Conversation(ids=ids, prompt_length=len(ids), temperature=0.0)] * 40)
    assert main(command) == 2
    assert "--data: expected text or answers to count, found none in" in capsys.readouterr().err
