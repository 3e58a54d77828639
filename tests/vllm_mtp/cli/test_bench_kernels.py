"""`vllm-mtp bench kernels`: flags become the config."""

from vllm_mtp.benchmarks.kernels.config import KernelsConfig
from vllm_mtp.cli import bench_kernels, make_parser
from vllm_mtp.common.flags import config_of

COMMAND = ["bench", "kernels", "--output", "o"]


def test_without_flags_it_is_the_default() -> None:
    args = make_parser().parse_args(COMMAND)
    assert config_of(KernelsConfig, args) == KernelsConfig()
    assert args.run == bench_kernels.run


def test_quick() -> None:
    assert config_of(KernelsConfig, make_parser().parse_args([*COMMAND, "--quick"])) == KernelsConfig(size="quick")
