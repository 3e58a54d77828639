"""The results that a page is made of: what kind each is, and what a file must have to be one."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vllm_mtp.benchmarks.harness.method import method_of
from vllm_mtp.benchmarks.harness.report import RESULTS
from vllm_mtp.common.files import read_json

Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """A command whose results a page shows."""

    what: str
    """What they tell."""
    command: str
    """Which command makes them."""
    keys: frozenset[str]
    """By which its results.json is known."""


KINDS = {
    "acceptance": Kind(
        what="acceptance, and speed over k",
        command="bench acceptance",
        keys=frozenset(("draft", "prompts", "rows", "speed_rows", "made_with", "settings")),
    ),
    "serving": Kind(
        what="throughput and latency over the requests at once",
        command="bench serving",
        keys=frozenset(("rows", "origins", "missing", "settings")),
    ),
    "tune": Kind(
        what="the configuration that pays most here",
        command="tune",
        keys=frozenset(("draft", "predictions", "choice", "verification", "origins", "settings")),
    ),
    "round": Kind(
        what="where a round goes",
        command="bench round",
        keys=frozenset(("kind", "draft", "rows", "origins", "settings")),
    ),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """One results.json."""

    kind: str
    path: Path
    result: Mapping[str, Any]

    @property
    def origins(self) -> list[Row]:
        """Commands, machines and versions that its rows come from."""
        found: list[Row] = self.result["made_with" if self.kind == "acceptance" else "origins"]
        return found

    @property
    def settings(self) -> Mapping[str, Any]:
        """What decides its figures."""
        found: Mapping[str, Any] = self.result["settings"]
        return found["acceptance"] if self.kind == "acceptance" else found

    @property
    def machines(self) -> list[str]:
        return list(dict.fromkeys(origin["hardware"] for origin in self.origins))

    @property
    def pair(self) -> str:
        """Target and drafter, as they were named; a server's results name the target alone."""
        target, draft = self.result["target"], self.result.get("draft")
        return f"{draft} for {target}" if draft else str(target)


def read(folder: Path) -> Source:
    """The results in a folder.

    Raises:
        ValueError: where there are none, or of no kind that a page shows.
    """
    path = folder / RESULTS if folder.is_dir() else folder
    if not path.is_file():
        raise ValueError(f"expected a folder with {RESULTS}, as a benchmark writes it, got {folder}")
    result = read_json(path)
    keys = set(result) if isinstance(result, dict) else set()
    for kind, about in KINDS.items():
        if about.keys <= keys and result.get("kind", kind) == kind:
            return Source(kind=kind, path=path, result=result)
    if "break_even" in keys:
        raise ValueError(
            f"{path} is of vllm-mtp tune without a drafter, which a page does not show: read the table beside it"
        )
    commands = ", ".join(f"vllm-mtp {about.command}" for about in KINDS.values())
    raise ValueError(f"expected the results of one of {commands}; {path} has others")


def name_of(row: Row) -> str:
    """What a page calls the method of a row: how its best token is found is left out, which changes no draft."""
    return str(replace(method_of(row), local_argmax=False))


def missing(sources: Sequence[Source]) -> list[tuple[str, str]]:
    """What no source tells, and the command that would."""
    given = {source.kind for source in sources}
    target = next((str(source.result["target"]) for source in sources), "TARGET")
    draft = next((str(source.result["draft"]) for source in sources if "draft" in source.result), "DRAFT_DIR")
    found = []
    for kind, about in KINDS.items():
        if kind not in given:
            words = ["vllm-mtp", *about.command.split(), target]
            words += [draft] if kind == "tune" else ["--draft", draft]
            found.append((about.what, shlex.join([*words, "--prompts", "FILE", "--output", "DIR"])))
    return found


def not_measured(source: Source) -> list[str]:
    """What a source itself says that it lacks."""
    return [f"Not measured: {method}: {why}." for method, why in source.result["missing"].items()]


def differences(sources: Sequence[Source]) -> list[str]:
    """Sentences on what the sources, or the rows of one, do not have in common, for whoever compares their figures."""
    found = [
        f"The rows of {source.path} were made on several machines, one after another: {'; '.join(source.machines)}. "
        "Compare ratios, each of which is of one machine, not the speeds themselves."
        for source in sources
        if len(source.machines) > 1
    ]
    named: dict[str, list[Any]] = {
        "drafters": list({source.settings.get("draft"): source.pair for source in sources}.values()),
        "machines": [" and ".join(source.machines) for source in sources],
        "dtypes": [source.settings.get("dtype") for source in sources],
        "versions of vLLM": [source.settings.get("vllm") for source in sources],
    }
    for what, values in named.items():
        distinct = list(dict.fromkeys(str(value) for value in values if value is not None))
        if len(distinct) > 1:
            those = f"{len(distinct)} {what}: {'; '.join(distinct)}"
            found.append(f"These results are of {those}. Each plot is of one of them: do not compare two.")
    return found
