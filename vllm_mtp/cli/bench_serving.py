"""`vllm-mtp bench serving`: latency and throughput over concurrency, beside no speculation and baselines."""

import argparse
from pathlib import Path

from vllm_mtp.cli.target import PROMPTS_HELP, add_target
from vllm_mtp.common.flags import add_fields, config_of


def add(parser: argparse.ArgumentParser) -> None:
    from vllm_mtp.benchmarks.serving.config import ServingConfig

    add_target(parser, "Folder or Hub id of the drafter's target.")
    parser.add_argument("--draft", required=True, type=Path, help="Folder of the drafter.")
    parser.add_argument("--prompts", required=True, type=Path, help=PROMPTS_HELP)
    parser.add_argument("--output", required=True, type=Path, help="Folder; rows found in it are not measured again.")
    add_fields(parser, ServingConfig)
    parser.set_defaults(run=run, goes_on=True)


def run(args: argparse.Namespace) -> int:
    from vllm_mtp.benchmarks.serving.bench import bench
    from vllm_mtp.benchmarks.serving.config import ServingConfig
    from vllm_mtp.common.provenance import shown_command

    config = config_of(ServingConfig, args)
    command = shown_command(args.argv)
    return bench(
        config, target=args.target, draft=args.draft, prompts=args.prompts, output=args.output, command=command
    )
