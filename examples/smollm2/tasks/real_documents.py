"""Documents made of text that is there already: manuals, books and articles in folders, as text or HTML.

Prose alone is kept: paragraphs of whole sentences, joined to passages of one to several. What a passage is about, which
questions ask for, is the name or the word that it uses most.
"""

import gzip
import re
from collections import Counter
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path

from tasks.documents import MIN_DOCUMENTS, Document, content_words

_TEXT, _HTML = (".txt", ".text", ".md"), (".html", ".htm", ".xhtml")
_AIMS = (700, 1100, 1500, 2300)
"""Characters from which on a passage is long enough, in turn."""
_LEAST = 400
"""Characters of the last passage of a file, if it is to be kept."""
_MIN_WORDS = 15
_MIN_LETTERS = 0.92
"""Share of letters, spaces and commas in prose; tables, commands and code have less."""
_QUESTIONS = (
    "What does the text say about {}?",
    "What should I know about {}?",
    "What is the role of {} here?",
    "What is said about {}, and why does it matter?",
    "Can you explain what is meant by {}?",
)
_NAME = re.compile(r"(?<=[a-z,] )[A-Z][\w'-]+(?: [A-Z][\w'-]+)*")


def read_documents(paths: list[Path], num_tokens: Callable[[str], int]) -> list[Document]:
    """Passages of all text and HTML files, gzipped ones too, in files and folders; the same files give the same.

    Args:
        paths: files or folders.
        num_tokens: of a text.

    Raises:
        ValueError: if a path is missing, or too little is found.
    """
    if missing := [path for path in paths if not path.exists()]:
        raise ValueError(f"--documents: expected files or folders, got {missing[0]}, which does not exist")
    found: dict[str, None] = {}
    for path in paths:
        for file in sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]:
            found |= dict.fromkeys(_passages(_paragraphs(file)))
    if len(found) < MIN_DOCUMENTS:
        kinds = " ".join(_TEXT + _HTML)
        raise ValueError(
            f"--documents: expected {MIN_DOCUMENTS} passages of prose or more in files of {kinds} (.gz too), "
            f"found {len(found)}"
        )
    return [
        Document(_QUESTIONS[place % len(_QUESTIONS)].format(_topic(text)), text, num_tokens(text))
        for place, text in enumerate(found)
    ]


def _paragraphs(file: Path) -> Iterator[str]:
    """Paragraphs of prose of a file, none of one in another format or encoding."""
    kind = file.with_suffix("").suffix if file.suffix == ".gz" else file.suffix
    if kind not in _TEXT + _HTML:
        return
    try:
        content = file.read_bytes()
        text = (gzip.decompress(content) if file.suffix == ".gz" else content).decode()
    except (OSError, EOFError, UnicodeDecodeError):
        return
    for part in _blocks(text) if kind in _HTML else re.split(r"\n\s*\n", text):
        paragraph = " ".join(part.split())
        if _is_prose(paragraph):
            yield paragraph


def _is_prose(text: str) -> bool:
    letters = sum(letter.isalpha() or letter in " ,'" for letter in text)
    return (
        len(text.split()) >= _MIN_WORDS
        and text[0].isupper()
        and text.endswith((".", "!", "?"))
        and letters >= _MIN_LETTERS * len(text)
    )


def _passages(paragraphs: Iterator[str]) -> Iterator[str]:
    parts: list[str] = []
    number = 0
    for paragraph in paragraphs:
        parts.append(paragraph)
        if sum(map(len, parts)) >= _AIMS[number % len(_AIMS)]:
            yield "\n\n".join(parts)
            parts, number = [], number + 1
    if sum(map(len, parts)) >= _LEAST:
        yield "\n\n".join(parts)


def _topic(text: str) -> str:
    names = Counter(_NAME.findall(text)).most_common(1)
    if names:
        return names[0][0]
    words = Counter(word for word in re.findall(r"[a-z][a-z'-]{4,}", text.lower()) if word in content_words(text))
    return max(words, key=lambda word: (words[word], len(word)), default="this")


class _Blocks(HTMLParser):
    """Text between tags that begin a block; what is not shown is left out."""

    _BLOCKS = frozenset(
        ("p", "li", "dd", "dt", "div", "h1", "h2", "h3", "h4", "h5", "h6", "td", "th", "tr", "blockquote", "br", "pre")
    )
    _HIDDEN = frozenset(("script", "style", "head"))

    def __init__(self) -> None:
        super().__init__()
        self.blocks: list[str] = [""]
        self._depth = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._depth += tag in self._HIDDEN
        if tag in self._BLOCKS:
            self.blocks.append("")

    def handle_endtag(self, tag: str) -> None:
        self._depth -= tag in self._HIDDEN
        if tag in self._BLOCKS:
            self.blocks.append("")

    def handle_data(self, data: str) -> None:
        if self._depth <= 0:
            self.blocks[-1] += data


def _blocks(html: str) -> list[str]:
    parser = _Blocks()
    parser.feed(html)
    return parser.blocks
