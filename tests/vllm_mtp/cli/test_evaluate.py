"""`vllm-mtp eval`: flags become the config. Catches a second copy of the defaults, and a spelling that is lost."""

from vllm_mtp.benchmarks.simulation.config import SimulationConfig
from vllm_mtp.cli import make_parser
from vllm_mtp.common.flags import config_of

COMMAND = ["eval", "t", "--draft", "d", "--prompts", "x"]


def parsed(*words: str) -> SimulationConfig:
    config: SimulationConfig = config_of(SimulationConfig, make_parser().parse_args([*COMMAND, *words]))
    return config


def test_without_flags_it_is_the_default() -> None:
    assert parsed() == SimulationConfig()


def test_both_spellings_of_k() -> None:
    assert parsed("--spec-tokens", "2", "4") == parsed("--num-speculative-tokens", "2", "4")
    assert parsed("--spec-tokens", "2", "4").num_speculative_tokens == (2, 4)
