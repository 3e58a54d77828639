"""Summaries of 300 to 1,400 tokens of text, asked for in many ways."""

import random

from tasks.documents import Library
from tasks.words import pick

_ASK = (
    "Summarize {it}|Please summarize {it}|Write a summary of {it}|Give me a summary of {it}|Can you summarize {it}|"
    "Could you sum up {it}|Provide a summary of {it}|Condense {it}|I need a short version of {it}|"
    "Give the main points of {it}|What are the key points of {it}|Briefly describe what is said in {it}|"
    "Boil down {it}|Tell me what matters in {it}|Produce an abstract of {it}|Recap {it}|Outline {it}"
)
_IT = "the text|the article|this text|the following text|this article|the passage|the document|this piece|the post"
_HOW = (
    "|||| in one sentence| in two sentences| in three sentences| in a few sentences| in a short paragraph|"
    " in under 50 words| in about 100 words| as a bulleted list| in three bullet points| in five bullet points|"
    " in plain language| for a busy reader| for a ten-year-old| so that I can read it in half a minute|"
    " without your own opinion| and keep the most important details| with one line for each paragraph"
)
_TAIL = ("TL;DR:", "Summary:", "In short:", "tl;dr", "The summary:", "Main points:", "In one sentence:")
_LABEL = ("Text", "Article", "Document", "TEXT", "Passage", "Content", "Input")


def prompt(rng: random.Random, library: Library) -> str:
    text = library.text(rng, 300, 1350)
    ask = pick(rng, _ASK).format(it=pick(rng, _IT)) + pick(rng, _HOW)
    ask += "?" if ask.startswith(("Can", "Could", "What")) else rng.choice((".", ".", ":", ""))
    if rng.random() < 0.1:
        ask = ask.lower()
    frame = rng.randrange(7)
    if frame == 0:
        return f"{text}\n\n{ask.rstrip(':')}"
    if frame == 1:
        return f"{text}\n\n{rng.choice(_TAIL)}"
    if frame == 2:
        return f"{rng.choice(_LABEL)}:\n{text}\n\n{ask.rstrip(':')}"
    if frame == 3:
        return f"{ask}\n\n{rng.choice(_LABEL)}: {text}"
    if frame == 4:
        return f'{ask}\n\n"""\n{text}\n"""'
    if frame == 5:
        return f"{ask}\n\n{text}\n\n{rng.choice(_TAIL)}"
    return f"{ask}\n\n{text}"
