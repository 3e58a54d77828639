"""The page in a browser, where there is one.

Catches: a page that is wider than a phone, plots that do not show, errors in the console, dark text on dark paper.
"""

from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.report import browser
from tests.benchmarks.report.results import rounds, serving, tuned
from vllm_mtp.benchmarks.report.config import ReportConfig
from vllm_mtp.benchmarks.report.report import page_of
from vllm_mtp.benchmarks.report.source import Source

CHROMIUM = browser.find()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason=f"none of {', '.join(browser.NAMES)}"),
]
WIDTHS = (390, 1280)
NUM_PLOTS = 8


@pytest.fixture(scope="module")
def page() -> str:
    path = Path("runs") / ("a-long-name-of-a-folder-" * 6) / "results.json"
    made = {"serving": serving, "round": rounds, "tune": tuned}
    sources = [Source(kind=kind, path=path, result=make()) for kind, make in made.items()]
    return page_of(sources, ReportConfig(price_per_hour=2.5)).html()


@pytest.fixture(scope="module", params=[False, True], ids=["light", "dark"])
def opened(page: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    assert CHROMIUM is not None
    found = browser.measure(CHROMIUM, page, tmp_path_factory.mktemp("browser"), WIDTHS, dark=request.param)
    return found | {"is_dark": request.param}


def test_it_fits_and_shows(opened: dict[str, Any]) -> None:
    assert opened["console"] == []
    assert [frame["width"] for frame in opened["frames"]] == list(WIDTHS)
    for frame in opened["frames"]:
        assert frame["page_width"] <= frame["width"]
        assert len(frame["plots"]) == NUM_PLOTS
        assert all(width > 300 and height > 80 for width, height in frame["plots"])
        assert frame["text_px"] > 8


def test_text_stands_out(opened: dict[str, Any]) -> None:
    def brightness(colour: str) -> float:
        return sum(map(int, colour.removeprefix("rgb(").removesuffix(")").split(", "))) / 765

    for frame in opened["frames"]:
        text, paper = map(brightness, frame["colours"])
        assert (text - paper if opened["is_dark"] else paper - text) > 0.6


def test_an_error_would_be_seen(page: str, tmp_path: Path) -> None:
    """Catches a check that finds nothing: the page refuses what a script, an image or a wide table would do to it."""
    assert CHROMIUM is not None
    wide = '<div style="width: 2000px">wide</div><img src="http://127.0.0.1:9/no.png">'
    found = browser.measure(CHROMIUM, page.replace("</main>", f"{wide}</main>"), tmp_path, WIDTHS)
    assert found["frames"][0]["page_width"] > WIDTHS[0]
    assert any("Content Security Policy" in line for line in found["console"])
