"""A question on three to five passages: related ones and others, in many layouts."""

import random

from tasks.documents import Document, Library
from tasks.stories import story
from tasks.words import pick, typed_quickly

_STORY_SHARE = 0.5  # of the prompts; the others have passages that the target wrote

_INSTRUCTION = (
    "Answer the question using the passages.|Use the passages below to answer the question.|"
    "Read the passages and answer the question.|Answer the question based on the given context.|"
    "Using only the sources below, answer the question.|Here are some search results. Answer the question with them.|"
    "You are given several documents. Answer the user's question from them.|"
    "Give a short answer to the question, taken from the text.|Answer in one or two sentences from the passages.|"
    "The notes below may or may not contain the answer. Answer the question.|"
    "Find the answer in the documents. If it is not there, say so.|"
    "Answer the question and name the passage that you used.|Please answer from the following information.|"
    "Write a helpful answer to the question. Rely on the retrieved passages."
)
_HEADINGS = (
    "Passage {n}:",
    "[{n}]",
    "Document {n}:",
    "Source {n}:",
    "({n})",
    "Result {n}",
    "Context {n}:",
    "{n})",
    "-",
)
_TEMPLATES = (
    "What does the text say about {topic}?",
    "According to the passages, what is said about {topic}?",
    'Which passage says "{quote}", and what follows from it?',
    "What is the main idea of passage {n}?",
    "Which of the passages deals with {topic}?",
    "What advice do the passages give on {topic}?",
    'Complete the sentence from the text: "{half}"',
    "List the facts about {topic} in the passages.",
    "What do passages {n} and {m} have in common?",
    'Is the following stated in the passages: "{quote}"?',
)
_TOPIC_CUTS = ("how to ", "how do i ", "how can i ", "benefits of ", "history of ", "concept of ", "importance of ")


def _passage(rng: random.Random, document: Document) -> str:
    """100 to 250 tokens: whole paragraphs from a random one on."""
    paragraphs = document.paragraphs
    start = rng.randrange((len(paragraphs) + 2) // 3) if rng.random() < 0.5 else 0
    text, limit = "", rng.randint(600, 1150)
    for paragraph in paragraphs[start:]:
        if text and len(text) + len(paragraph) > limit:
            break
        text += ("\n" if text else "") + paragraph
    if len(text) > 1200:
        text = text[:1200].rsplit(". ", 1)[0].rstrip(".") + "."
    return text


def _topic(question: str) -> str | None:
    """The subject in a user turn such as "What are the benefits of composting?"."""
    lower = question.lower().rstrip("?.! ")
    for cut in _TOPIC_CUTS:
        if cut in lower:
            topic = lower.rsplit(cut, 1)[1]
            if 4 <= len(topic) <= 60 and "." not in topic:
                return ("how to " if cut.startswith("how") else "") + topic
    return None


def _question(rng: random.Random, document: Document, passage: str, number: int, place: int) -> str:
    if rng.random() < 0.6:
        return typed_quickly(rng, document.question, 0.2)
    sentences = [s for s in document.sentences if s in passage and '"' not in s and "\n" not in s]
    words = rng.choice(sentences).split() if sentences else []
    template = rng.choice(_TEMPLATES)
    topic = _topic(document.question)
    if ("{topic}" in template and topic is None) or (("{quote}" in template or "{half}" in template) and not words):
        return document.question
    other = rng.choice([n for n in range(1, number + 1) if n != place])
    half = " ".join(words[: len(words) // 2]) + " ..."
    return template.format(topic=topic, quote=" ".join(words), half=half, n=place, m=other)


def _own(rng: random.Random, library: Library) -> tuple[list[str], str]:
    """Passages from the target's own answers, the one to the question among them, and a question."""
    number = rng.choice((3, 3, 4, 4, 5))
    asked = rng.choice(library.asked)
    indices = [asked, *library.related(rng, asked, number - 1)]
    rng.shuffle(indices)
    passages = [_passage(rng, library.documents[index]) for index in indices]
    place = indices.index(asked)
    return passages, _question(rng, library.documents[asked], passages[place], number, place + 1)


def _invented(rng: random.Random) -> tuple[list[str], str]:
    """Passages from invented stories, half the time several of the same kind, and a question of fact."""
    number = rng.choice((3, 4, 5))
    asked = story(rng)
    same_kind = rng.random() < 0.5
    others = [story(rng, asked.kind if same_kind and i < 2 else None) for i in range(number - 1)]
    # The answer may lie in a paragraph that was cut off: then there is none, as happens when a search fails.
    passages = [_shortened(rng, other.paragraphs) for other in others]
    passages.insert(rng.randrange(number), _shortened(rng, asked.paragraphs))
    return passages, typed_quickly(rng, rng.choice(asked.questions), 0.15)


def _shortened(rng: random.Random, paragraphs: list[str]) -> str:
    """All paragraphs but one, or all."""
    drop = rng.randrange(2 * len(paragraphs))
    return "\n".join(paragraph for i, paragraph in enumerate(paragraphs) if i != drop)


def prompt(rng: random.Random, library: Library) -> str:
    passages, question = _invented(rng) if not library.asked or rng.random() < _STORY_SHARE else _own(rng, library)
    heading, break_line = rng.choice(_HEADINGS), rng.random() < 0.4
    parts = [heading.format(n=n) + ("\n" if break_line else " ") + text for n, text in enumerate(passages, 1)]
    context = ("\n\n" if rng.random() < 0.8 else "\n").join(parts if rng.random() < 0.85 else passages)
    instruction = pick(rng, _INSTRUCTION)
    label = pick(rng, "Question: |Q: |Query: |User question: |")
    frame = rng.randrange(5)
    if frame == 0:
        return f"{instruction}\n\n{context}\n\n{label}{question}" + rng.choice(("", "\nAnswer:", "\n\nA:"))
    if frame == 1:
        return f"{label}{question}\n\n{context}\n\n{instruction}"
    if frame == 2:
        return f"{context}\n\n{label}{question}" + rng.choice(("", "\n\n" + instruction))
    if frame == 3:
        return f"{instruction}\n\nContext:\n{context}\n\n{label or 'Question: '}{question}"
    return f"{question}\n\n{pick(rng, 'Sources|Context|Search results|Documents|Information')}:\n{context}"
