"""What a page holds, and how it becomes HTML: one file that asks for no other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vllm_mtp.common.provenance import versions

_TEMPLATE = Path(__file__).with_name("page.html")


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Cells of text."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """A plot, and its numbers for whoever does not see it."""

    title: str
    svg: str | None
    """Markup of our own (`common.plots.svg`), the only text that is not escaped; None: no plot could be drawn."""
    table: Table


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """Of one results.json, or of costs."""

    title: str
    about: str = ""
    """Of what the figures are: settings, machine, versions."""
    notes: Sequence[str] = ()
    code: Sequence[str] = ()
    """What can be typed."""
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """All of it."""

    title: str
    summary: Sequence[tuple[str, str]]
    """Sentences, with their beginnings apart."""
    warnings: Sequence[str] = ()
    sections: Sequence[Section] = ()
    missing: Sequence[tuple[str, str]] = ()
    """What is not told, and the command that would tell."""
    origins: Table
    settings: Mapping[str, str] = field(default_factory=dict)
    """By results.json."""

    def html(self) -> str:
        """The page."""
        from jinja2 import Environment, FileSystemLoader, StrictUndefined

        environment = Environment(
            loader=FileSystemLoader(_TEMPLATE.parent),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        return environment.get_template(_TEMPLATE.name).render(page=self, versions=versions("vllm-mtp"))
