"""Documents and passages made of answers that the target wrote itself: text of nobody else's, in its own vocabulary.

Answers are kept if they neither loop nor repeat themselves and consist of words that other answers use as well, which
sorts out most of what sampling at temperature 1 garbles. A last sentence without an end is cut off.
"""

import random
import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tasks.stories import story
from tasks.words import listed
from vllm_mtp.training.data.repetition import ends_in_loop

MIN_DOCUMENTS = 20
_MIN_TOKENS = 60
_STORY_SHARE = 0.4  # of the long texts; the others are the target's own
_MIN_WORD_COUNT = 4  # a word that fewer answers use counts as unknown
_MAX_UNKNOWN = 0.035
_MAX_REPEATED = 0.15  # share of 5-word sequences that came before in the same answer
_ABOUT_ITSELF = re.compile(
    r"chatbot|language model|\bAI\b.*(assist|design)|SmolLM|Hugging Face|I'm (sorry|designed|not able)"
)
_OPENING = re.compile(
    r"(Sure|Absolutely|Certainly|Of course|Great|I'd be|I'd love|I'm glad|I'm happy|I'm here|That's|Thank|Hello|Hi\b)"
    r"[^.!?:]*[.!?:]\s+"
)
_ODD = re.compile(r"[^\x00-\xff\u2013\u2014\u2018\u2019\u201c\u201d\u2022\u2026]")
_STOP_WORDS = frozenset(
    listed(
        """about|above|after|again|also|and|any|are|because|been|before|being|but|can|cannot|could|did|does|doing|down|each
every|few|for|from|further|had|has|have|having|help|here|how|i'm|into|its|itself|just|like|make|more|most|need
not|now|off|once|only|other|our|out|over|own|please|provide|same|should|some|such|than|that|the|their|them|then
there|these|they|this|those|through|too|under|until|very|was|way|were|what|when|where|which|while|who|why|will
with|would|you|your|i've|it's|i'd|explain|write|tell|give|want|different"""
    )
)


@dataclass(frozen=True, slots=True)
class Document:
    """An answer, and the user turn it answers."""

    question: str
    text: str
    num_tokens: int

    @property
    def paragraphs(self) -> list[str]:
        return [part.strip() for part in self.text.split("\n\n") if part.strip()]

    @property
    def sentences(self) -> list[str]:
        return [s.strip() for s in re.split(r"(?<=[.!?])\s+", self.text) if 40 <= len(s.strip()) <= 220]


class Library:
    """All usable documents, with a look-up of related ones. May be empty: texts are invented stories then."""

    def __init__(self, documents: list[Document]) -> None:
        self.documents = documents
        self._long = [document for document in documents if document.num_tokens >= 280] or documents
        self._words = [content_words(f"{document.question} {document.text[:300]}") for document in documents]
        self._with_word: dict[str, list[int]] = defaultdict(list)
        for index, words in enumerate(self._words):
            for word in words:
                self._with_word[word].append(index)
        # Whole questions only: what the sampled user turn cut short or piled up is no use as an instruction.
        self.asked = [
            index
            for index, document in enumerate(documents)
            if document.question.endswith("?") and "\n" not in document.question and 25 <= len(document.question) <= 170
        ]

    def related(self, rng: random.Random, index: int, number: int) -> list[int]:
        """Documents that share rare words with documents[index], closest first with some chance, never itself."""
        scores: Counter[int] = Counter()
        for word in sorted(self._words[index]):
            holders = self._with_word[word]
            if len(holders) <= 120:
                for other in holders:
                    scores[other] += 1000 // len(holders)
        del scores[index]
        near = [other for other, _ in scores.most_common(3 * number)]
        rest = [other for other in range(len(self.documents)) if other != index and other not in scores]
        near += rng.sample(rest, max(0, number - len(near)))
        return rng.sample(near, number)

    def text(self, rng: random.Random, min_tokens: int, max_tokens: int) -> str:
        """One document, or several on the same or on different subjects one after another, of a length in between."""
        aim = rng.uniform(min_tokens, max_tokens)
        if not self.documents or rng.random() < _STORY_SHARE:
            return "\n\n".join(story(rng).text for _ in range(max(1, round(aim / 240))))
        first = rng.randrange(len(self.documents))
        number = 1 if aim < 330 else min(5, max(2, round(aim / 300)))
        if number == 1:
            return rng.choice(self._long).text
        same = rng.random() < 0.7
        others = self.related(rng, first, number) if same else rng.sample(range(len(self.documents)), number)
        parts, length = [], 0
        for index in [first, *others]:
            document = self.documents[index]
            if length + document.num_tokens <= max_tokens:
                parts.append(document.text)
                length += document.num_tokens
            if length >= aim:
                break
        return "\n\n".join(parts)


def content_words(text: str) -> set[str]:
    """Words of four letters and more, but for those that every text has."""
    return set(re.findall(r"[a-z][a-z'-]{3,}", text.lower())).difference(_STOP_WORDS)


def trimmed(text: str) -> str:
    """An answer without a polite opening and up to its last whole sentence, without the list marker that may follow."""
    text = _OPENING.sub("", text.strip(), count=1) if _OPENING.match(text.strip()) else text.strip()
    if text.endswith((".", "!", "?", "```")):
        return text
    end = max(text.rfind(mark) for mark in (".\n", "!\n", "?\n", ". ", "! ", "? "))
    text = text[: end + 1] if end > 0 else ""
    return re.sub(r"\n\s*\d+\.$", "", text).strip()


def _repeated(words: list[str]) -> float:
    grams = [tuple(words[i : i + 5]) for i in range(len(words) - 4)]
    return 1 - len(set(grams)) / len(grams) if grams else 1.0


def well_formed(texts: list[str]) -> list[bool]:
    """Which of the texts are prose or code on some subject: no loops, no excuses, no rare words."""
    words = [re.findall(r"[a-z']+", text.lower()) for text in texts]
    known = Counter(word for answer in words for word in set(answer))
    return [
        bool(answer)
        and not _ABOUT_ITSELF.search(text)
        and not _ODD.search(text)
        and _repeated(answer) <= _MAX_REPEATED
        and sum(known[word] < _MIN_WORD_COUNT for word in answer) <= _MAX_UNKNOWN * len(answer)
        for text, answer in zip(texts, words, strict=True)
    ]


def read_library(path: Path, tokenizer: Any) -> Library:
    """The documents of a file of conversations.

    Args:
        path: NPZ with `ids` (all conversations one after another), `length` and `prompt_length`, as `vllm-mtp generate`
            writes it, or the folder that holds conversations.npz.
        tokenizer: the target's, with `decode` and `__call__`.

    Raises:
        ValueError: if the file is missing, lacks an array, or holds too few usable answers.
    """
    path = path / "conversations.npz" if path.is_dir() else path
    if not path.is_file():
        raise ValueError(f"--conversations: expected an NPZ file, got {path}, which is no file")
    try:
        with np.load(path) as arrays:
            ids, lengths, prompt_lengths = arrays["ids"], arrays["length"], arrays["prompt_length"]
    except (KeyError, OSError, ValueError) as error:
        raise ValueError(f"--conversations: expected ids, length and prompt_length in {path}: {error}") from error
    found: list[tuple[str, str, int]] = []
    for end, length, prompt_length in zip(np.cumsum(lengths), lengths, prompt_lengths, strict=True):
        answer_start = end - length + prompt_length
        if end - answer_start < _MIN_TOKENS or ends_in_loop(ids[answer_start:end].tolist()):
            continue
        prompt = tokenizer.decode(ids[end - length : answer_start].tolist())
        answer = tokenizer.decode(ids[answer_start:end].tolist(), skip_special_tokens=True)
        question = prompt.split("<|im_start|>user\n")[-1].split("<|im_end|>")[0].strip()
        found.append((question, trimmed(answer), int(end - answer_start)))
    good = well_formed([text for _, text, _ in found])
    documents = [
        Document(question, text, num_tokens)
        for (question, text, num_tokens), is_good in zip(found, good, strict=True)
        if is_good and len(text) > 3 * _MIN_TOKENS
    ]
    if len(documents) < MIN_DOCUMENTS:
        raise ValueError(
            f"--conversations: expected {MIN_DOCUMENTS} usable answers or more, got {len(documents)} in {path}"
        )
    return Library(documents)
