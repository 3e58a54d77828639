"""Conversations on disk, and which of them say what others said."""

import json
import random
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


@pytest.mark.parametrize(
    "damage", ["empty", "cut", "garbage", "zeros inside", "other arrays", "lengths", "below 0", "above"]
)
def test_a_damaged_file_is_named(damage: str, tmp_path: Path) -> None:
    """Catches EOFError, zlib's errors and others that say neither which file nor what to do."""
    path = tmp_path / "conversations.npz"
    save_conversations(path, [conversation([1, 2], list(range(500)))])
    whole = path.read_bytes()
    arrays = {name: [[1]] for name in ("ids", "length", "prompt_length", "temperature")}
    if damage == "other arrays":
        np.savez(path, **arrays)
    elif damage == "lengths":
        np.savez(path, ids=[1, 2], length=[3, -1], prompt_length=[1, 0], temperature=[0.0, 0.0])
    elif damage in ("below 0", "above"):
        ids = [1, -1] if damage == "below 0" else [1, 2**32]
        np.savez(path, ids=ids, length=[2], prompt_length=[1], temperature=[0.0])
    else:
        spoiled = {
            "empty": b"",
            "cut": whole[:-30],
            "garbage": b"x" * 99,
            "zeros inside": whole[:60] + bytes(40) + whole[100:],
        }
        path.write_bytes(spoiled[damage])
    with pytest.raises(ValueError, match=r"conversations\.npz"):
        load_conversations(path)


def test_several_answers_are_read_as_they_were_written(tmp_path: Path) -> None:
    """Catches a later turn of the user that counts as the target's, and a file of earlier versions that is refused."""
    several = Conversation(ids=(1, 2, 10, 11, 3, 20, 21), prompt_length=2, temperature=0.0, given=((4, 5),))
    assert (several.answers, several.answer) == (((2, 4), (5, 7)), (10, 11, 20, 21))
    save_conversations(tmp_path / "conversations.npz", [conversation([1], [2, 3]), several])
    assert load_conversations(tmp_path) == [conversation([1], [2, 3]), several]
    np.savez(tmp_path / "old.npz", ids=[1, 2, 3], length=[3], prompt_length=[1], temperature=[0.0])
    assert load_conversations(tmp_path / "old.npz") == [conversation([1], [2, 3])]
    for given in ([[1, 9]], [[1, 2], [2, 2]]):
        np.savez(
            tmp_path / "bad.npz", ids=[1, 2, 3], length=[3], prompt_length=[1], temperature=[0.0], num_given=[1],
            given=given,
        )  # fmt: skip
        with pytest.raises(ValueError, match="is damaged"):
            load_conversations(tmp_path / "bad.npz")


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
    longer = conversation([3], [*story, *range(500, 512)])  # 33 of its 45 runs of eight are the first's
    half_new = conversation([4], [*story[:20], *range(600, 620)])
    short = conversation([5], [9, 9])  # too short to have a run of eight
    everything = [first, same, other_prompt, longer, half_new, short, short]
    kept, num_exact, num_near = without_duplicates(everything)
    assert kept == [first, half_new, short]
    assert (num_exact, num_near) == (2, 2)
    assert without_duplicates(everything, 0.8)[0] == [first, longer, half_new, short]
    assert without_duplicates(everything, 1.0) == ([first, other_prompt, longer, half_new, short], 2, 0)


def test_an_answer_out_of_pieces_of_several_is_kept() -> None:
    """Catches a comparison with all earlier answers together."""
    stories = [conversation([0], list(range(100 * i, 100 * i + 40))) for i in range(3)]
    mixed = conversation([1], [token for story in stories for token in story.answer[:20]])
    assert without_duplicates([*stories, mixed]) == ([*stories, mixed], 0, 0)


def test_structured_answers_are_kept(target_dir: Path) -> None:
    """Catches 2,000 answers of one JSON schema taken for copies of each other, and a true copy among them kept."""
    from transformers import AutoTokenizer

    tokenizer, draw = AutoTokenizer.from_pretrained(target_dir), random.Random(0)

    def word() -> str:
        return "".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=7))

    texts = [
        json.dumps({"invoice_number": draw.randint(1000, 9999), "customer": {"first_name": word(), "city": word()},
                    "items": [{"description": word(), "quantity": draw.randint(1, 9)}], "is_paid": draw.random() < 0.5})
        for _ in range(2000)
    ]  # fmt: skip
    copy = texts[7].replace('"is_paid": ', '"is_paid": not ')
    answers = tokenizer([*texts, copy]).input_ids
    kept, _, num_near = without_duplicates(conversation([place], answer) for place, answer in enumerate(answers))
    assert len(kept) >= 1990
    assert num_near >= 1
    assert kept[-1].ids[0] != 2000
