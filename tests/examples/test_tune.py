"""The text of the fine-tune. Catches a held-out text that is trained on, and prompts that are whole texts."""

from types import ModuleType

import pytest

from tests.scripts import load_script


@pytest.fixture(scope="module")
def tune() -> ModuleType:
    return load_script("examples/stdlib/tune.py")


def test_what_is_held_out_is_not_trained_on(tune: ModuleType) -> None:
    texts = [f"text {number % 45}" for number in range(100)]  # some of them twice
    found = tune.splits(texts)
    assert found["held_out"] == texts[::20]
    assert set(found["train"]) == set(texts) - set(found["held_out"])


def test_a_prompt_is_the_beginning_of_a_text(tune: ModuleType) -> None:
    assert tune.prompt_of("Word " * 80) == "Word " * 19 + "Word"
    assert tune.prompt_of("Who was the first man on it?") == "Who was the"
