"""Plots that stand in a page.

Catches: a colour that is not the page's, ids that two plots share, a label that becomes markup or a formula.
"""

import re
from typing import Any

from vllm_mtp.common.plots import svg


def draw(pyplot: Any) -> Any:
    figure, axes = pyplot.subplots(figsize=(3, 2))
    axes.plot([1, 2], [3, 4], "o-", label="<b>$a$ & co")
    axes.legend()
    return figure


def test_it_is_a_part_of_a_page() -> None:
    found = svg("one", draw)
    assert found is not None
    assert re.match(r'<svg viewBox="[\d. ]+">', found)
    assert found.endswith("</svg>")
    assert "http" not in found
    assert "&lt;b&gt;$a$ &amp; co" in found
    assert "currentColor" in found
    assert "#000000" not in found
    assert set(re.findall("font-family: ([^;]*);", found)) == {"inherit"}


def test_ids_have_its_name() -> None:
    one, two = svg("one", draw), svg("two", draw)
    assert one is not None
    assert two is not None
    assert all(found.startswith("one-") for found in re.findall(r'\bid="([^"]*)', one))
    assert not set(re.findall(r'\bid="([^"]*)', one)) & set(re.findall(r'\bid="([^"]*)', two))
    assert {*re.findall(r'(?:href="|url\()#([^")]+)', one)} <= {*re.findall(r'\bid="([^"]*)', one)}


def test_it_is_the_same_again() -> None:
    assert svg("one", draw) == svg("one", draw)
