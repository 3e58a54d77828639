"""Flags out of settings. Catches a type, default or earlier name that gets lost between a class and its flags."""

import argparse
from dataclasses import dataclass
from pathlib import Path

import pytest

from vllm_mtp.common.flags import add_fields, config_of, words_of
from vllm_mtp.common.settings import setting


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """Of the whole.

    With more to say.
    """

    inner: float | None = setting(None, "Share of it, 100% at most.", none="half")


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    things: int = setting(3_000, "Number of things.", old=("pieces",))
    num_speculative_tokens: int = setting(3, "Draft tokens.")
    names: tuple[str, ...] = setting((), "Names of things.")
    folder: Path | None = setting(None, "Where it is.")
    kind: str = setting("a", "Kind of thing.", choices=("a", "b"))
    fast: bool = setting(False, "Do it fast.", old=("quick",))
    part: Part = Part()
    without_flag: int = 7


@pytest.fixture
def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    add_fields(parser, Config)
    return parser


def test_defaults(parser: argparse.ArgumentParser) -> None:
    assert config_of(Config, parser.parse_args([])) == Config()


def test_values(parser: argparse.ArgumentParser) -> None:
    words = ["--things", "5", "--names", "x", "y", "--folder", "f", "--kind", "b", "--fast", "--inner", "0.5"]
    assert config_of(Config, parser.parse_args(words)) == Config(
        things=5, names=("x", "y"), folder=Path("f"), kind="b", fast=True, part=Part(inner=0.5)
    )


def test_words_make_the_config_again(parser: argparse.ArgumentParser) -> None:
    """Catches a setting that another command is not told of."""
    config = Config(things=5, names=("x", "y"), folder=Path("f"), fast=True)
    assert words_of(config) == ["--things", "5", "--names", "x", "y", "--folder", "f", "--fast"]
    assert config_of(Config, parser.parse_args(words_of(config))) == config


def test_every_name(parser: argparse.ArgumentParser) -> None:
    for flag in ("--things", "--pieces"):
        assert config_of(Config, parser.parse_args([flag, "5"])).things == 5
    for flag in ("--spec-tokens", "--num-speculative-tokens"):
        assert config_of(Config, parser.parse_args([flag, "5"])).num_speculative_tokens == 5
    assert config_of(Config, parser.parse_args(["--quick"])).fast


def test_0_is_none_where_none_is_a_value(parser: argparse.ArgumentParser) -> None:
    args = parser.parse_args(["--inner", "0", "--things", "0"])
    assert config_of(Config, args) == Config(things=0)


def test_help(parser: argparse.ArgumentParser) -> None:
    text = " ".join(parser.format_help().split())
    assert "--things THINGS Number of things. (default: 3,000)" in text
    assert "Names of things. (default: none)" in text
    assert "Where it is. (default: automatic)" in text
    assert "--kind {a,b} Kind of thing. (default: a)" in text
    assert "Of the whole: --inner INNER Share of it, 100% at most. (default: half)" in text
    assert "--fast Do it fast." in text
    assert "--spec-tokens SPEC_TOKENS Draft tokens. (default: 3)" in text
    assert not any(word in text for word in ("pieces", "num-speculative", "quick", "without"))


def test_a_wrong_number_is_named(parser: argparse.ArgumentParser, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser.parse_args(["--inner", "much"])
    assert "argument --inner: invalid float value: 'much'" in capsys.readouterr().err
