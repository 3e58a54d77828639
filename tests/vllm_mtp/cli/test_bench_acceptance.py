"""`vllm-mtp bench acceptance`: flags become the config. Catches an earlier spelling that is lost."""

import pytest

from vllm_mtp.benchmarks.acceptance.config import AcceptanceConfig
from vllm_mtp.cli import make_parser
from vllm_mtp.common.flags import config_of

COMMAND = ["bench", "acceptance", "t", "--draft", "d", "--prompts", "x", "--output", "o"]


def parsed(*words: str) -> AcceptanceConfig:
    config: AcceptanceConfig = config_of(AcceptanceConfig, make_parser().parse_args([*COMMAND, *words]))
    return config


def test_without_flags_it_is_the_default() -> None:
    assert parsed() == AcceptanceConfig()


@pytest.mark.parametrize(
    ("flag", "old", "value"),
    [
        ("--spec-tokens", "--num-speculative-tokens", "2"),
        ("--baselines", "--rivals", "ngram"),
        ("--limit-per-task", "--limit-per-category", "7"),
        ("--speed-prompts-per-task", "--speed-prompts-per-category", "7"),
    ],
)
def test_earlier_spellings(flag: str, old: str, value: str) -> None:
    assert parsed(flag, value) == parsed(old, value) != parsed()


def test_what_once_stood_for_all_and_none() -> None:
    assert parsed("--limit-per-category", "0").limit_per_task is None
    assert parsed("--rivals", "none", "--schedule", "none").methods == parsed().methods


def test_engine_options() -> None:
    given = parsed("--quantization", "fp8", "--max-num-seqs", "4")
    assert given.engine_options.engine_args() == {"quantization": "fp8"}
    assert given.max_num_seqs == 4
