"""Prompt files."""

from pathlib import Path

import pytest

from vllm_mtp.benchmarks.prompts import read_prompts


def test_text_prompts_keep_their_indentation(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("    def f():\n        pass\n-----\nsecond\n-----\n\n")
    assert read_prompts(path) == ["    def f():\n        pass", "second"]


def test_jsonl_prompts(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "one\\n-----\\nstill one"}\n\n{"prompt": "two"}\n')
    assert read_prompts(path) == ["one\n-----\nstill one", "two"]


@pytest.mark.parametrize("line", ["not json", '{"text": "x"}', '{"prompt": 3}', "[]"])
def test_a_bad_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(f'{{"prompt": "fine"}}\n{line}\n')
    with pytest.raises(ValueError, match=r"prompts\.jsonl:2: expected"):
        read_prompts(path)


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="which is no file"):
        read_prompts(tmp_path / "absent.txt")
    (tmp_path / "empty.txt").write_text("-----\n")
    with pytest.raises(ValueError, match="holds no prompt"):
        read_prompts(tmp_path / "empty.txt")
