"""`vllm-mtp bench serving`: latency and throughput over concurrency, beside no speculation and baselines."""

import argparse

from vllm_mtp.cli.target import add_pair, pair_of
from vllm_mtp.common.flags import add_fields, config_of


def add(parser: argparse.ArgumentParser) -> None:
    from vllm_mtp.benchmarks.serving.config import ServingConfig

    add_pair(parser)
    add_fields(parser, ServingConfig)
    parser.set_defaults(run=run, goes_on=True)


def run(args: argparse.Namespace) -> int:
    from vllm_mtp.benchmarks.serving.bench import bench
    from vllm_mtp.benchmarks.serving.config import ServingConfig

    return bench(config_of(ServingConfig, args), **pair_of(args))
