"""`vllm-mtp bench acceptance`: acceptance and speed by task, beside baselines."""

import argparse

from vllm_mtp.cli.target import add_pair, pair_of
from vllm_mtp.common.flags import add_fields, config_of


def add(parser: argparse.ArgumentParser) -> None:
    from vllm_mtp.benchmarks.acceptance.config import AcceptanceConfig

    add_pair(parser)
    add_fields(parser, AcceptanceConfig)
    parser.set_defaults(run=run, goes_on=True)


def run(args: argparse.Namespace) -> int:
    from vllm_mtp.benchmarks.acceptance.bench import bench
    from vllm_mtp.benchmarks.acceptance.config import AcceptanceConfig

    return bench(config_of(AcceptanceConfig, args), **pair_of(args))
