"""`vllm-mtp bench round`: where a round goes."""

import argparse

from vllm_mtp.cli.target import add_pair, pair_of
from vllm_mtp.common.flags import add_fields, config_of


def add(parser: argparse.ArgumentParser) -> None:
    from vllm_mtp.benchmarks.rounds.config import RoundConfig

    add_pair(parser)
    add_fields(parser, RoundConfig)
    parser.set_defaults(run=run, goes_on=True)


def run(args: argparse.Namespace) -> int:
    from vllm_mtp.benchmarks.rounds.bench import bench
    from vllm_mtp.benchmarks.rounds.config import RoundConfig

    return bench(config_of(RoundConfig, args), **pair_of(args))
