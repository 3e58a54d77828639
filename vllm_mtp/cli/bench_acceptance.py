"""`vllm-mtp bench acceptance`: acceptance and speed by task, beside baselines."""

import argparse
from pathlib import Path

from vllm_mtp.cli.flags import add_fields, config_of


def add(parser: argparse.ArgumentParser) -> None:
    from vllm_mtp.benchmarks.acceptance.config import AcceptanceConfig

    parser.add_argument("--target", required=True, help="folder or Hub id of the drafter's target")
    parser.add_argument("--draft", required=True, type=Path, help="folder of the drafter")
    parser.add_argument(
        "--prompts", required=True, type=Path, help='text, or JSONL with "prompt", "messages" or "turns" (Spec-Bench)'
    )
    parser.add_argument("--output", required=True, type=Path, help="folder; rows that are in it are not measured again")
    add_fields(parser, AcceptanceConfig)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from vllm_mtp.benchmarks.acceptance.bench import bench
    from vllm_mtp.benchmarks.acceptance.config import AcceptanceConfig
    from vllm_mtp.common.provenance import command_line, relative

    config = config_of(AcceptanceConfig, args)
    argv = [relative(word) for word in command_line(args.argv)]
    return bench(config, target=args.target, draft=args.draft, prompts=args.prompts, output=args.output, argv=argv)
