"""`vllm-mtp report`: what several benchmarks found, as one page that explains itself and asks for no other file."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from vllm_mtp.benchmarks.report import acceptance, costs, rounds, serving, tune
from vllm_mtp.benchmarks.report.config import ReportConfig
from vllm_mtp.benchmarks.report.page import Page, Section, Table
from vllm_mtp.benchmarks.report.source import KINDS, Source, differences, missing, read
from vllm_mtp.benchmarks.report.summary import summary
from vllm_mtp.benchmarks.report.verdict import groups
from vllm_mtp.common.files import write_atomically

_SECTIONS: dict[str, Callable[[Source, str], Section]] = {
    "serving": serving.section,
    "acceptance": acceptance.section,
    "round": rounds.section,
    "tune": tune.section,
}


def report(config: ReportConfig, *, folders: Sequence[Path], output: Path) -> int:
    """Reads the results in the folders and writes the page.

    Returns:
        0.

    Raises:
        ValueError: for a folder without results, or with results of another kind or version.
    """
    sources = [read(folder) for folder in folders]
    page = page_of(sources, config)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(output, page.html())
    print("\n".join(map(" ".join, page.summary)))
    for what, command in page.missing:
        print(f"not in it: {what} ({command})", file=sys.stderr)
    if any(figure.svg is None for section in page.sections for figure in section.figures):
        print("no plots, for want of matplotlib; the page has their numbers", file=sys.stderr)
    print(output)
    return 0


def page_of(sources: Sequence[Source], config: ReportConfig) -> Page:
    """The page of some results.

    Raises:
        ValueError: for a results.json that is not what its command writes today.
    """
    sections = [
        _section(source, config, f"plot{place}")
        for kind in _SECTIONS
        for place, source in enumerate(sources)
        if source.kind == kind
    ]
    if config.price_per_hour is not None:
        sections += [costs.section(one, config, f"cost{place}") for place, one in enumerate(groups(sources))]
    return Page(
        title=f"vllm-mtp: {', '.join(dict.fromkeys(str(source.result['target']) for source in sources))}",
        summary=summary(sources, config),
        warnings=differences(sources),
        sections=sections,
        missing=missing(sources),
        origins=_origins(sources),
        settings={str(source.path): json.dumps(source.result["settings"], indent=1) for source in sources},
    )


def _section(source: Source, config: ReportConfig, name: str) -> Section:
    """A source's section. All else that is made of it is made too, so that an error is known to be of its file."""
    try:
        summary([source], config)
        _origins([source])
        return _SECTIONS[source.kind](source, name)
    except (LookupError, TypeError, ValueError, AttributeError, AssertionError, ZeroDivisionError) as error:
        command = KINDS[source.kind].command
        raise ValueError(
            f"expected what vllm-mtp {command} writes; {source.path} is damaged or of another version "
            f"({type(error).__name__}: {error}); the same command writes it again from its rows",
        ) from error


def _origins(sources: Sequence[Source]) -> Table:
    columns = ["file", "command", "machine", "versions", "commit"]
    rows = [
        [
            str(source.path),
            origin["command"],
            origin["hardware"],
            ", ".join(f"{name} {number}" for name, number in origin["versions"].items()),
            str(origin["git_revision"] or "-"),
        ]
        for source in sources
        for origin in source.origins
    ]
    return Table(columns=columns, rows=rows)
