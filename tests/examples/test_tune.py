"""The text of the fine-tune. Catches code that is left in it, and prompts that are whole docstrings."""

from types import ModuleType

import pytest

from tests.scripts import load_script

LONG = "Word " * 80
SOURCE = f'''"""{LONG}module."""
import os

def f():
    """Short."""

class A:
    """{LONG}class."""

    def g(self):
        """{LONG[:100]}method."""
'''


@pytest.fixture(scope="module")
def tune() -> ModuleType:
    return load_script("examples/stdlib/tune.py")


def test_the_text_is_docstrings(tune: ModuleType) -> None:
    found = tune.docstrings_of(SOURCE)
    assert [text.rsplit(maxsplit=1)[-1] for text in found] == ["module.", "class.", "method."]
    assert tune.docstrings_of("def f(:") == []


def test_a_prompt_is_the_beginning_of_a_long_docstring(tune: ModuleType) -> None:
    assert tune.prompts([tune.docstrings_of(SOURCE)]) == ["Word " * 19 + "Word"] * 2
