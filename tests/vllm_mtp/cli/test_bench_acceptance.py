"""`vllm-mtp bench acceptance`: flags become the config. Catches an earlier spelling that is lost."""

import pytest

from vllm_mtp.benchmarks.acceptance.config import AcceptanceConfig
from vllm_mtp.cli import main, make_parser
from vllm_mtp.common.flags import config_of

COMMAND = ["bench", "acceptance", "t", "--draft", "d", "--prompts", "x", "--output", "o"]


def parsed(*words: str) -> AcceptanceConfig:
    config: AcceptanceConfig = config_of(AcceptanceConfig, make_parser().parse_args([*COMMAND, *words]))
    return config


def test_without_flags_it_is_the_default() -> None:
    assert parsed() == AcceptanceConfig()


def test_both_spellings_of_k() -> None:
    assert parsed("--spec-tokens", "2") == parsed("--num-speculative-tokens", "2") != parsed()


def test_errors_name_the_flag_that_help_shows(capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a complaint about a flag that nobody typed, of a field that has a shorter one."""
    for flag in ("--spec-tokens", "--num-speculative-tokens"):
        assert main([*COMMAND, flag, "0"]) == 2
        assert capsys.readouterr().err == "vllm-mtp bench: --spec-tokens: expected at least 1, got 0\n"


def test_engine_options() -> None:
    given = parsed("--quantization", "fp8", "--max-num-seqs", "4")
    assert given.engine_options.engine_args() == {"quantization": "fp8"}
    assert given.max_num_seqs == 4
