"""Conversations on disk, and which of them say what others said."""

from pathlib import Path

import numpy as np
import pytest

from vllm_mtp.training.data.conversations import (
    Conversation,
    load_conversations,
    save_conversations,
    without_duplicates,
)


def conversation(prompt: list[int], answer: list[int], temperature: float = 0.0) -> Conversation:
    return Conversation(ids=(*prompt, *answer), prompt_length=len(prompt), temperature=temperature)


@pytest.mark.parametrize(("largest", "dtype"), [(65_535, np.uint16), (151_935, np.uint32)])
def test_what_is_written_is_read(tmp_path: Path, largest: int, dtype: type) -> None:
    written = [conversation([1, 2], [3, largest, 5], 0.5), conversation([7], [8, 9])]
    path = tmp_path / "conversations.npz"
    save_conversations(path, written)
    assert load_conversations(path) == load_conversations(tmp_path) == written
    assert np.load(path)["ids"].dtype == dtype
    assert list(tmp_path.iterdir()) == [path]
    save_conversations(path, [])
    assert load_conversations(path) == []


def test_bad_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "conversations.npz"
    for make in (lambda: None, lambda: path.write_bytes(b"PK"), lambda: np.savez(path, ids=[1])):
        make()
        with pytest.raises(ValueError, match=rf"^expected conversations of `vllm-mtp generate` in {path}"):
            load_conversations(path)
    save_conversations(path, [conversation([1, 2], list(range(500)))])
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"^expected conversations"):
        load_conversations(path)
    np.savez(path, ids=[1, 2, 3], length=[2], prompt_length=[1], temperature=[0.0])
    with pytest.raises(ValueError, match=r"conversations\.npz is damaged: its lengths do not fit its 3 ids"):
        load_conversations(path)


def test_duplicates() -> None:
    story = list(range(100, 140))
    first = conversation([1], story)
    same = conversation([1], story, temperature=1.0)
    other_prompt = conversation([2], story)  # the same answer to another question
    longer = conversation([3], [*story, *range(500, 512)])  # 33 of its 45 runs of eight were there before
    half_new = conversation([4], [*story[:20], *range(600, 620)])
    short = conversation([5], [9, 9])  # too short to have a run of eight
    kept, num_exact, num_near = without_duplicates([first, same, other_prompt, longer, half_new, short, short])
    assert kept == [first, half_new, short]
    assert (num_exact, num_near) == (2, 2)
