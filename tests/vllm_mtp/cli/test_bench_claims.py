"""`vllm-mtp bench claims`: flags become the config. Catches a default that the class does not have."""

from vllm_mtp.benchmarks.claims.config import ClaimsConfig
from vllm_mtp.cli import make_parser
from vllm_mtp.common.flags import config_of


def parsed(*words: str) -> ClaimsConfig:
    config: ClaimsConfig = config_of(
        ClaimsConfig, make_parser().parse_args(["bench", "claims", "--output", "o", *words])
    )
    return config


def test_without_flags_it_is_the_default() -> None:
    assert parsed() == ClaimsConfig()


def test_engine_options() -> None:
    given = parsed("--tensor-parallel-size", "2", "--max-num-seqs", "4")
    assert given.engine_options.engine_args() == {"tensor_parallel_size": 2}
    assert given.max_num_seqs == 4


def test_both_spellings_of_k() -> None:
    assert parsed("--spec-tokens", "2") == parsed("--num-speculative-tokens", "2") != parsed()
