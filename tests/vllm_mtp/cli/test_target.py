"""TARGET, by its place or by its earlier flag. Catches: a target that is silently one of two, and none at all."""

import argparse

import pytest

from vllm_mtp.cli import main, make_parser
from vllm_mtp.cli.target import choose_target, take_last_word

COMMANDS = {
    "train": ["--data", "x", "--output", "o"],
    "vocab": ["--data", "x", "--output", "o", "--size", "9"],
    "generate": ["--prompts", "x", "--output", "o"],
    "eval": ["--draft", "d", "--prompts", "x"],
    "bench acceptance": ["--draft", "d", "--prompts", "x", "--output", "o"],
    "bench claims": ["--output", "o"],
}


def parsed(*words: str) -> argparse.Namespace:
    args, rest = make_parser().parse_known_args(words)
    assert take_last_word(args, rest) == []
    choose_target(args)
    return args


@pytest.mark.parametrize(("command", "more"), COMMANDS.items())
def test_first_word_or_flag(command: str, more: list[str]) -> None:
    words = command.split()
    assert parsed(*words, "t", *more).target == "t"
    assert parsed(*words, *more, "--target", "t").target == "t"


def test_behind_a_flag_with_one_value() -> None:
    """Python 3.11 takes the place of TARGET for empty as soon as a flag comes first."""
    assert parsed("train", "--data", "x", "--output", "o", "t").target == "t"


@pytest.mark.parametrize(("command", "more"), COMMANDS.items())
def test_twice_or_not_at_all(command: str, more: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    words = command.split()
    assert main([*words, "t", *more, "--target", "u"]) == 2
    assert "--target: expected one target, got t and u" in capsys.readouterr().err
    if command == "bench claims":
        assert parsed(*words, *more).target == "examples/stdlib/target"
        return
    assert main([*words, *more]) == 2
    assert "--target: expected a folder or Hub id as TARGET" in capsys.readouterr().err
