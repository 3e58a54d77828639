"""The page of `vllm-mtp report`, from published results and from made up ones, as the command writes it.

Catches: results that the page refuses, text of a file that becomes markup, a page that needs the network, figures of
two machines side by side without a word.
"""

import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.report.results import ORIGIN, rounds, serving, settings, tuned
from vllm_mtp.cli import main

PUBLISHED = Path(__file__).resolve().parents[3] / "benchmarks" / "results"
MADE_UP = {"serving": serving, "round": rounds, "tune": tuned}


class Page(HTMLParser):
    """What a browser would read of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.headings: list[str] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open.append(tag)

    def handle_data(self, data: str) -> None:
        if "style" not in self._open[-1:]:
            self.words.append(data)
        if self._open[-1:] == ["h2"]:
            self.headings.append(data)
            self._open.append("")


def stored(folder: Path, result: dict[str, Any]) -> Path:
    folder.mkdir()
    (folder / "results.json").write_text(json.dumps(result))
    return folder


def written(output: Path, *folders: Path, options: str = "") -> str:
    assert main(["report", *map(str, folders), "--output", str(output), *options.split()]) == 0
    return output.read_text("utf-8")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("results")
    made = {kind: stored(folder / kind, make()) for kind, make in MADE_UP.items()}
    return made | {"acceptance": PUBLISHED / "smollm2"}


@pytest.fixture(scope="module")
def whole(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> str:
    """A page of all kinds, with costs."""
    output = tmp_path_factory.mktemp("page") / "report.html"
    return written(output, *folders.values(), options="--price-per-hour 2.5 --training-cost 40")


@pytest.mark.parametrize("name", ["smollm2", "smollm2-lookup", "smollm2-lookup-480"])
def test_published_results_have_a_page(name: str, tmp_path: Path) -> None:
    page = Page(written(tmp_path / "report.html", PUBLISHED / name))
    result = json.loads((PUBLISHED / name / "results.json").read_text("utf-8"))
    drafted = [row for row in result["rows"] if row["method"] == "mtp" and "lookup" not in row]
    best = [row for row in drafted if row["temperature"] == 0][-1]
    assert f"{best['acceptance_length']:.2f} tokens (" in page.text
    assert sum(tag == "svg" for tag, _ in page.tags) >= 1
    assert ("no speed was measured" in page.text) == (not result["speed_rows"])


@pytest.mark.parametrize("kind", ["acceptance", *MADE_UP])
def test_one_kind_is_enough_and_the_others_are_asked_for(
    kind: str, folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = Page(written(tmp_path / "report.html", folders[kind]))
    commands = {"acceptance": "bench acceptance", "serving": "bench serving", "round": "bench round", "tune": "tune"}
    asked = {other for other, command in commands.items() if f"vllm-mtp {command} " in page.text.partition("Not in")[2]}
    assert asked - {kind} == commands.keys() - {kind}
    assert capsys.readouterr().err.count("not in it: ") == 3


def test_what_is_said_first(folders: dict[str, Path], tmp_path: Path) -> None:
    page = Page(written(tmp_path / "report.html", folders["serving"], options="--price-per-hour 3.6"))
    assert "It pays at 1; at 2 that cannot be told; it costs speed at 8 (requests at once)" in page.text
    assert "at 1: 2.00x (1.90 to 2.10), mtp k = 3" in page.text
    assert "Break-even: about 2.0 (95%: about 1.9 to about 2.6) requests at once" in page.text
    # 50 and 100 tokens/s at 3.60 an hour: 0.001 a second.
    assert "cost 20.00 USD without the drafter and 10.00 USD (9.52 to 10.53) with it" in page.text


def test_what_does_not_pay_is_not_advised(tmp_path: Path) -> None:
    page = Page(written(tmp_path / "report.html", stored(tmp_path / "tune", tuned(pays=False))))
    assert "Do not speculate here. What comes closest to paying is mtp k = 3: 1.60x (1.44-1.76)" in page.text
    assert "Serve with" not in page.text


def test_every_kind_has_a_section_with_plots(whole: str) -> None:
    page = Page(whole)
    for start in ("Served: ", "Acceptance: ", "Where a round goes: ", "Tuned: ", "Cost: "):
        assert any(heading.startswith(start) for heading in page.headings), start
    images = [attributes for tag, attributes in page.tags if attributes.get("role") == "img"]
    assert len(images) == sum(tag == "svg" for tag, _ in page.tags) >= 10
    assert all(attributes["aria-label"] for attributes in images)
    assert "vllm serve small --speculative-config '{}'" in page.text
    assert "60% is the target, 15% the drafter's module and head, 5% its lookup" in page.text


def test_nothing_is_loaded(whole: str) -> None:
    page = Page(whole)
    refused = {"script", "iframe", "img", "object", "embed", "base", "form"}
    assert not refused & {tag for tag, _ in page.tags}
    references = [
        value
        for _, attributes in page.tags
        for name, value in attributes.items()
        if name in ("src", "href", "xlink:href", "srcset", "action", "data") and value
    ]
    assert references
    assert all(reference.startswith(("#", "data:")) for reference in references)
    assert not re.search(r"url\((?!#)|@import|@font-face", whole)


def test_ids_are_those_of_one_element(whole: str) -> None:
    """Catches plots that share ids, as matplotlib gives them: the clip of one would cut another."""
    page = Page(whole)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', whole))
    assert used <= set(ids)


def test_text_of_files_is_text(tmp_path: Path) -> None:
    bad = "<script>alert(1)</script>&amp;\"'"
    result = serving() | {"target": bad, "missing": {bad: bad}, "origins": [ORIGIN | {"command": bad, "hardware": bad}]}
    page_of_bad = written(tmp_path / "report.html", stored(tmp_path / "bad", result), options="--price-per-hour 1")
    page = Page(page_of_bad)
    assert "script" not in {tag for tag, _ in page.tags}
    assert page.text.count(bad) >= 5


def test_text_in_a_plot_is_text(folders: dict[str, Path], tmp_path: Path) -> None:
    options = ["--price-per-hour", "1", "--currency", "<b>$a$"]
    assert main(["report", str(folders["serving"]), "--output", str(tmp_path / "r.html"), *options]) == 0
    page = Page((tmp_path / "r.html").read_text("utf-8"))
    assert "b" not in {tag for tag, _ in page.tags}
    assert page.words.count("<b>$a$") >= 1, "the axis: neither markup nor a formula"


def test_the_same_results_give_the_same_page(folders: dict[str, Path], tmp_path: Path) -> None:
    """Catches a date, or an id by chance."""
    one, two = (written(tmp_path / name, folders["round"], folders["tune"]) for name in ("1.html", "2.html"))
    assert one == two


def test_figures_of_two_machines_are_not_side_by_side_without_a_word(tmp_path: Path) -> None:
    other = serving() | {
        "target": "large",
        "origins": [ORIGIN | {"hardware": "another machine"}],
        "settings": settings(draft="4567", dtype="bfloat16"),
    }
    one, two = stored(tmp_path / "one", serving()), stored(tmp_path / "two", other)
    page = Page(written(tmp_path / "both.html", one, two))
    for what in ("2 drafters: small; large", "2 machines: a machine; another machine", "2 dtypes: float32; bfloat16"):
        assert f"These results are of {what}. " in page.text
    assert "versions of vLLM" not in page.text
    assert "These results are of" not in Page(written(tmp_path / "one.html", one)).text


def test_rows_of_two_machines_in_one_file_are_told(tmp_path: Path) -> None:
    page = Page(written(tmp_path / "report.html", PUBLISHED / "smollm2"))
    assert "were made on several machines, one after another: Intel(R) Xeon(R) Processor, 1 threads; " in page.text


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (None, "expected a folder with results.json"),
        ("{", "is not valid JSON"),
        ("[]", "expected the results of one of vllm-mtp bench acceptance"),
        ('{"break_even": []}', "is of vllm-mtp tune without a drafter"),
        ('{"rows": []}', "expected the results of one of vllm-mtp bench acceptance"),
        (json.dumps(serving() | {"rows": [{"method": "mtp"}]}), "expected what vllm-mtp bench serving writes"),
        (json.dumps(rounds() | {"rows": 5}), "expected what vllm-mtp bench round writes"),
        (json.dumps(tuned() | {"origins": [{}]}), "expected what vllm-mtp tune writes"),
    ],
)
def test_a_bad_file_is_one_error(
    result: str | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if result is not None:
        (tmp_path / "results.json").write_text(result)
    assert main(["report", str(tmp_path), "--output", str(tmp_path / "report.html")]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert str(tmp_path) in said
    assert not (tmp_path / "report.html").exists()


def test_without_matplotlib_the_numbers_stay(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    page = Page(written(tmp_path / "report.html", folders["serving"]))
    assert "svg" not in {tag for tag, _ in page.tags}
    assert "2.00x (1.90 to 2.10)" in page.text
    assert "no plots, for want of matplotlib" in capsys.readouterr().err
