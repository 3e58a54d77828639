"""The text behind the shipped target.

Catches: a file in both splits, a split that depends on the machine, a file whose beginning is not a fair sample.
"""

import hashlib
import json
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def library(corpus: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A small standard library of 200 files in four folders; returns their paths, sorted."""
    folder = tmp_path / "lib"
    paths = [f"{name}/module{number}.py" for name in "abcd" for number in range(50)]
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(f"# {path}\n", encoding="utf-8")
    for path in ("site-packages/other.py", "a/encodings/table.py", "a/empty.py", "a/latin.py", "a/notes.txt"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text("x = 1\n" if path[0] == "s" else "", encoding="utf-8")
    (folder / "a/latin.py").write_bytes("# ä".encode("latin-1"))
    (folder / "a/table.py").write_text("x" * 400_001)
    monkeypatch.setattr(corpus, "stdlib_folder", lambda: folder)
    return sorted(paths)


def test_every_file_is_in_one_split(corpus: ModuleType, library: list[str]) -> None:
    train, held_out = corpus.documents("train"), corpus.documents("held_out")
    assert sorted(path for path, _ in train + held_out) == library
    assert 0 < len(held_out) < len(train)
    assert [path for path, _ in train] == sorted(path for path, _ in train)
    assert all(text == f"# {path}\n" for path, text in train + held_out)


def test_held_out_is_decided_by_the_path_alone(corpus: ModuleType) -> None:
    found = {
        path for path in ("ast.py", "heapq.py", "json/decoder.py", *map(str, range(1000))) if corpus.is_held_out(path)
    }
    digests = {path: hashlib.sha256(path.encode()).hexdigest() for path in found}
    assert all(int(digest, 16) % 20 == 0 for digest in digests.values())
    assert 25 < len(found) < 80  # one in 20 of 1000


def test_an_unknown_split_is_an_error(corpus: ModuleType) -> None:
    with pytest.raises(ValueError, match="expected 'train' or 'held_out', got 'test'"):
        corpus.documents("test")


def test_the_file_is_shuffled_the_same_way_every_time(corpus: ModuleType, library: list[str], tmp_path: Path) -> None:
    outputs = [tmp_path / "runs" / name for name in ("one.jsonl", "two.jsonl")]
    for output in outputs:
        assert corpus.main(["--split", "train", "--output", str(output)]) == 0
    assert outputs[0].read_bytes() == outputs[1].read_bytes()
    records = [json.loads(line) for line in outputs[0].read_text(encoding="utf-8").splitlines()]
    assert sorted((record["path"], record["text"]) for record in records) == corpus.documents("train")
    # A quarter of it has a fair share of each folder: about 12 of 48 files, never none or half.
    first = [record["path"][0] for record in records[: len(records) // 4]]
    assert all(4 <= first.count(folder) <= 24 for folder in "abcd")
