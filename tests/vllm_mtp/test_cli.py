"""The command line as a whole: every option says what it is, errors name flags, and help is quick.

Catches: a flag that says "default 0.6" and nothing else, a message that names a field which nobody typed, a command
that loads torch to print its help.
"""

import argparse
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any
from unittest.mock import Mock

import pytest

from vllm_mtp.benchmarks.demo import smollm2, stdlib
from vllm_mtp.cli import evaluate, main, make_parser, train, vocab


def parsers() -> dict[str, argparse.ArgumentParser]:
    """Every command, and the demos."""

    def below(name: str, parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
        yield name, parser
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for word, other in action.choices.items():
                    yield from below(f"{name} {word}", other)

    demos = {"demo": stdlib.make_parser(), "demo-smollm2": smollm2.make_parser()}
    return dict(below("vllm-mtp", make_parser())) | demos


@pytest.mark.parametrize("name", parsers())
def test_every_option_says_what_it_is(name: str) -> None:
    parser = parsers()[name]
    silent = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            silent += [choice.dest for choice in action._choices_actions if not choice.help]
        elif action.help != argparse.SUPPRESS:
            text = re.sub(r"\(?default.*", "", action.help or "").strip()
            silent += [] if len(text.split()) > 1 else ["/".join(action.option_strings) or action.dest]
    assert silent == []
    parser.format_help()  # which fails where a text has a percent sign of its own


def test_all_commands_are_here() -> None:
    """Catches a walk over the commands that misses some."""
    found = parsers()
    assert found.keys() >= {"vllm-mtp train", "vllm-mtp bench acceptance", "vllm-mtp bench tune-kernels", "demo"}
    assert sum(len(parser._actions) for parser in found.values()) > 120


def test_an_error_names_the_flag(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "t", "--data", "x.txt", "--output", "out", "--sequence-length", "8"]) == 2
    assert capsys.readouterr().err.startswith("vllm-mtp train: --sequence-length: expected at least 12")


@pytest.mark.parametrize(
    ("command", "flag"),
    [
        (["generate", "t", "--self-prompts", "3", "--output", "out"], "--dtype"),
        (["bench", "acceptance", "t", "--draft", "d", "--prompts", "p", "--output", "out"], "--dtype"),
        (["train", "t", "--data", "x", "--output", "out"], "--objective"),
        (["bench", "claims", "--output", "out"], "--claims"),
        (["bench", "kernels", "--output", "out"], "--kernels"),
    ],
)
def test_a_choice_is_refused_where_it_is_read(
    command: list[str], flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([*command, flag, "int8"])
    assert f"argument {flag}: invalid choice: 'int8'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("module", "command", "advice"),
    [
        (train, ["train", "t", "--data", "x", "--output", "out"], "goes on"),
        (evaluate, ["eval", "t", "--draft", "d", "--prompts", "p"], "starts anew"),
        (vocab, ["vocab", "t", "--data", "x", "--size", "9", "--output", "out"], "starts anew"),
    ],
)
def test_what_a_command_that_was_cut_short_does_next(
    module: Any, command: list[str], advice: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a promise to go on by a command that keeps nothing."""
    for error, said in ((KeyboardInterrupt(), "interrupted; "), (MemoryError(), "out of memory; ")):
        monkeypatch.setattr(module, "run", Mock(side_effect=error))
        assert main(command) in (2, 130)
        assert f"{said}the same command {advice}" in capsys.readouterr().err


def test_an_unknown_word_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["bench", "kernels", "--output", "out", "--no-such-flag"])
    assert "unrecognized arguments: --no-such-flag" in capsys.readouterr().err


def test_help_is_quick() -> None:
    """The parser of every command is made for each of them: it may load none of the heavy libraries."""
    code = "import sys; from vllm_mtp.cli import make_parser; make_parser(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "transformers", "vllm", "datasets"} & set(loaded)
