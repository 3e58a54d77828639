"""`vllm-mtp generate`: flags become the config. Catches an engine option that is read and does not arrive."""

from vllm_mtp.cli import make_parser
from vllm_mtp.common.engine_options import EngineOptions
from vllm_mtp.common.flags import config_of
from vllm_mtp.training.data.generate_config import GenerateConfig

COMMAND = ["generate", "t", "--prompts", "x", "--output", "o"]


def parsed(*words: str) -> GenerateConfig:
    config: GenerateConfig = config_of(GenerateConfig, make_parser().parse_args([*COMMAND, *words]))
    return config


def test_without_flags_it_is_the_default() -> None:
    assert parsed() == GenerateConfig()


def test_both_spellings_of_temperature() -> None:
    assert parsed("--temperature", "0", "0.5") == parsed("--temperatures", "0", "0.5")
    assert parsed("--temperature", "0", "0.5").temperature == (0.0, 0.5)


def test_engine_options() -> None:
    words = ["--tensor-parallel-size", "2", "--gpu-memory-utilization", "0.5", "--quantization", "fp8"]
    words += ["--trust-remote-code", "--revision", "main", "--vllm-args", '{"block_size": 32}']
    assert parsed(*words).engine_options == EngineOptions(
        tensor_parallel_size=2,
        gpu_memory_utilization=0.5,
        quantization="fp8",
        trust_remote_code=True,
        revision="main",
        vllm_args='{"block_size": 32}',
    )
