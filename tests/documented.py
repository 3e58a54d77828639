"""Command lines of the documentation: every fenced line of a Markdown file that begins with a command's name."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = ROOT / "docs" / "commands"
FENCE = re.compile(r"^ *```[^\n]*\n(.*?)^ *```", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, kw_only=True, slots=True)
class Documented:
    """A command line as a reader would type it."""

    page: Path
    words: tuple[str, ...]
    """Behind the name of the command: for `vllm-mtp train MODEL` "train" and "MODEL"."""

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}: {' '.join(self.words)[:80]}"


def markdown_files() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "examples").rglob("*.md"))]


def commands(name: str, pages: list[Path]) -> list[Documented]:
    """Every line that begins with `name` in the pages' fenced blocks, each once."""
    found = [
        Documented(page=page, words=tuple(shlex.split(line, comments=True)[len(name.split()) :]))
        for page in pages
        for line in _lines(page.read_text(encoding="utf-8"))
        if line.startswith(f"{name} ")
    ]
    return list({one.words: one for one in found}.values())


def _lines(text: str) -> Iterator[str]:
    """Lines of fenced blocks, those that end in a backslash joined to the next."""
    for block in FENCE.findall(text):
        yield from (line.strip() for line in block.replace("\\\n", " ").splitlines())
