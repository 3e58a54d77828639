"""The prompts of the SmolLM2 example: the shipped ones of the benchmark, and the generated ones to train on.

Catches: a benchmark prompt that the drafter was trained on, a task without prompts, a file that differs from run to
run, looping text in documents, articles and cases that do not agree.
"""

import gzip
import json
import random
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from tests.scripts import load_script

FOLDER = Path(__file__).resolve().parent.parent.parent / "examples" / "smollm2"
CHAT = ("writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities")
OTHERS = ("translation", "summarization", "qa", "math_reasoning", "rag")


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    """examples/smollm2/make_training_prompts.py."""
    return load_script("examples/smollm2/make_training_prompts.py")


@pytest.fixture(scope="module")
def demo() -> list[dict[str, Any]]:
    return [json.loads(line) for line in (FOLDER / "prompts.jsonl").read_text(encoding="utf-8").splitlines()]


def num_tokens(text: str) -> int:
    return len(text) // 4


def make(maker: ModuleType, number: int, seed: int = 0) -> list[tuple[str, str]]:
    records = maker.make_prompts(maker.Library([]), number, seed, num_tokens)
    assert all(list(record) == ["category", "messages"] for record in records)
    assert all(len(record["messages"]) == 1 and record["messages"][0]["role"] == "user" for record in records)
    return [(record["category"], record["messages"][0]["content"]) for record in records]


def test_the_shipped_prompts_cover_every_task(demo: list[dict[str, Any]]) -> None:
    assert [record["question_id"] for record in demo] == list(range(1, len(demo) + 1))
    counts = Counter(record["category"] for record in demo)
    assert set(counts) == {*CHAT, *OTHERS}
    assert all(counts[category] >= 2 for category in CHAT)
    assert sum(counts[category] for category in CHAT) >= 10
    assert all(counts[category] >= 10 for category in OTHERS)
    texts = [record["turns"][0] for record in demo]
    assert len(set(texts)) == len(texts)
    assert all(len(record["turns"]) == 1 for record in demo)
    for category, least, most in (("summarization", 250, 520), ("rag", 400, 700)):
        lengths = [len(record["turns"][0].split()) for record in demo if record["category"] == category]
        assert least <= min(lengths)
        assert max(lengths) <= most


def test_no_shipped_prompt_is_trained_on(maker: ModuleType, demo: list[dict[str, Any]]) -> None:
    trained = [text for _, text in make(maker, 4000)]
    sentences = {line.strip().lower() for text in trained for line in text.replace(". ", ".\n").splitlines()}
    for record in demo:
        text = record["turns"][0]
        assert text not in trained
        parts = [part.strip().lower() for part in text.replace(". ", ".\n").splitlines()]
        shared = [part for part in parts if len(part.split()) >= 6 and part in sentences]
        assert not shared or all("translate" in part or "passages" in part for part in shared), shared


def test_shares_and_determinism(maker: ModuleType) -> None:
    made = make(maker, 400)
    assert Counter(category for category, _ in made) == {
        name: round(400 * share) for name, share in maker.SHARES.items()
    }
    assert sum(maker.SHARES.values()) == pytest.approx(1)
    assert len({text for _, text in made}) == 400
    assert made == make(maker, 400)
    assert made != make(maker, 400, seed=1)
    assert max(num_tokens(text) for _, text in made) < maker.MAX_PROMPT_TOKENS
    assert not [text for _, text in made if "{" in text and "}" in text and "{x}" in text]


def test_enough_distinct_sentences_and_questions(maker: ModuleType) -> None:
    german, romance, qa = (__import__(f"tasks.{name}", fromlist=[name]) for name in ("german", "romance", "qa"))
    rng = random.Random(0)
    assert len({german.sentence(rng) for _ in range(2500)}) > 1500
    assert len({romance.sentence(rng, language) for language in ("French", "Spanish") for _ in range(500)}) > 800
    assert sum(len(templates) * len(words) for templates, words in qa._GROUPS) > 1500


@pytest.mark.parametrize(
    ("noun", "adjective", "form", "expected"),
    [
        ("m Vertrag s Verträge", "neu", "der.nom", "der neue Vertrag"),
        ("m Vertrag s Verträge", "neu", "ein.akk", "einen neuen Vertrag"),
        ("m Vertrag s Verträge", "", "der.gen", "des Vertrags"),
        ("f Stadt - Städte", "groß", "ein.dat", "einer großen Stadt"),
        ("f Stadt - Städte", "groß", "unser.nom", "unsere große Stadt"),
        ("n Buch es Bücher", "alt", "mein.nom", "mein altes Buch"),
        ("n Buch es Bücher", "alt", "dies.akk", "dieses alte Buch"),
        ("m Lehrer s Lehrer", "jung", "pl.dat", "den jungen Lehrern"),
        ("f Ärztin - Ärztinnen", "jung", "pl.dat", "den jungen Ärztinnen"),
        ("m Chef s Chefs", "", "pl.dat", "den Chefs"),
    ],
)
def test_german_forms(maker: ModuleType, noun: str, adjective: str, form: str, expected: str) -> None:
    german = __import__("tasks.german", fromlist=["german"])
    assert format(german.Noun(noun).with_adjective(adjective), form) == expected


@pytest.mark.parametrize(
    ("noun", "language", "form", "expected"),
    [
        ("m hôpital", "French", "de", "de l'hôpital"),
        ("m accord", "French", "ce", "cet accord"),
        ("m musée", "French", "a", "au musée"),
        ("f école", "French", "un", "une école"),
        ("m banco", "Spanish", "de", "del banco"),
        ("f ley", "Spanish", "a", "a la ley"),
    ],
)
def test_french_and_spanish_forms(maker: ModuleType, noun: str, language: str, form: str, expected: str) -> None:
    romance = __import__("tasks.romance", fromlist=["romance"])
    assert format(romance.Noun(noun, language), form) == expected


class Letters:
    """A tokenizer of characters."""

    def decode(self, ids: list[int], *, skip_special_tokens: bool = False) -> str:
        return "".join(map(chr, ids))


def write_conversations(path: Path, turns: list[tuple[str, str]]) -> None:
    texts = [(f"<|im_start|>user\n{question}<|im_end|>\n", answer) for question, answer in turns]
    np.savez(
        path,
        ids=np.array([ord(letter) for text in texts for letter in "".join(text)], dtype=np.uint32),
        length=np.array([len(prompt) + len(answer) for prompt, answer in texts]),
        prompt_length=np.array([len(prompt) for prompt, _ in texts]),
    )


def test_documents_are_whole_answers_that_do_not_loop(maker: ModuleType, tmp_path: Path) -> None:
    words = [
        "river",
        "market",
        "garden",
        "winter",
        "bread",
        "letter",
        "window",
        "music",
        "doctor",
        "summer",
        "paper",
        "bridge",
    ]
    rng = random.Random(0)
    good = [
        (f"What about the {rng.choice(words)} number {i}?", " ".join(rng.choices(words, k=50)) + ". And cut")
        for i in range(40)
    ]
    bad = [
        ("Loop?", "again and again " * 30),
        ("Excuse?", "I'm sorry, but as a chatbot I cannot. " + good[0][1]),
        ("Rare?", " ".join(f"zq{'x' * i}" for i in range(40)) + "."),
    ]
    write_conversations(tmp_path / "conversations.npz", [*good, *bad])
    library = maker.read_library(tmp_path, Letters())
    assert {document.question for document in library.documents} == {question for question, _ in good}
    assert all(document.text.endswith(".") and "And cut" not in document.text for document in library.documents)
    made = maker.make_prompts(library, 200, 0, num_tokens)
    assert any("river" in record["messages"][0]["content"] for record in made if record["category"] == "rag")


def ferry(island: str, times: int = 3) -> str:
    """A paragraph of prose of `times` x 340 characters."""
    return times * (
        f"The ferry to {island} leaves the harbour at dawn and comes back at dusk, and between them Captain Ferreira "
        "sleeps. On some days the wind from the west is strong enough that the captain stays with the family of the "
        "keeper of the light, and nobody on either side of the water knows when the ferry will come again. "
    )


def test_documents_of_ones_own(maker: ModuleType, tmp_path: Path) -> None:
    """Catches menus and code taken for prose, what a page hides shown, a file that stops the others."""
    many = [ferry(f"{letter}{vowel}land") for letter in "ABCDEFGHIJKLMNOP" for vowel in "aeo"]
    texts = {
        "many.txt": "\n\n".join(many),
        "wrapped.txt": ferry("Una").replace(" and ", "\nand ") + "\n\nUsage: ferry [--help] FILE\n\n" + ferry("Duo"),
        "page.html": f"<head><title>{ferry('No')}</title></head><ul><li>Home</ul><p>A <b>page</b>. {ferry('Tre')}",
        "again.md": ferry("Una"),
        "code.py": ferry("No"),
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "packed.txt.gz").write_bytes(gzip.compress(ferry("Quattro", 2).encode()))
    (tmp_path / "broken.txt.gz").write_bytes(b"no gzip")
    (tmp_path / "latin.txt").write_bytes(f"Müller. {ferry('No')}".encode("latin-1"))
    documents = maker.read_documents([tmp_path], num_tokens)
    expected = [*many, ferry("Una"), ferry("Duo"), f"A page. {ferry('Tre')}", ferry("Quattro", 2)]
    found = [part for document in documents for part in document.text.split("\n\n")]
    assert sorted(found) == sorted(text.strip() for text in expected)
    assert all(document.num_tokens == num_tokens(document.text) for document in documents)
    assert any("Captain Ferreira" in document.question for document in documents)
    made = maker.make_prompts(maker.Library(documents), 200, 0, num_tokens)
    for category in ("summarization", "rag"):
        assert any("the wind from the west" in r["messages"][0]["content"] for r in made if r["category"] == category)
    with pytest.raises(ValueError, match=r"--documents: expected 20 passages of prose or more .*, found 1"):
        maker.read_documents([tmp_path / "again.md"], num_tokens)
    with pytest.raises(ValueError, match=r"--documents: expected files or folders, got .*none"):
        maker.read_documents([tmp_path / "none"], num_tokens)


def test_bad_input_is_one_line(maker: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    output = str(tmp_path / "out.jsonl")
    assert maker.main(["--target", str(tmp_path / "none"), "--output", output]) == 2
    assert "which has no tokenizer.json" in capsys.readouterr().err
    assert maker.main(["--target", str(tmp_path), "--output", output, "--num", "0"]) == 2
    assert "expected at least 1, got 0" in capsys.readouterr().err
    with pytest.raises(ValueError, match="which is no file"):
        maker.read_library(tmp_path / "none.npz", Letters())
    np.savez(tmp_path / "other.npz", ids=np.zeros(3))
    with pytest.raises(ValueError, match="expected ids, length and prompt_length"):
        maker.read_library(tmp_path / "other.npz", Letters())
    assert not Path(output).exists()
