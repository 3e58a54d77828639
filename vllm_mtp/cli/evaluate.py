"""`vllm-mtp eval`: measure a drafter exactly, without vLLM."""

import argparse
from pathlib import Path

from vllm_mtp.cli.target import PROMPTS_HELP, add_source, add_target, source_of
from vllm_mtp.common.flags import add_fields, config_of


def add(parser: argparse.ArgumentParser) -> None:
    from vllm_mtp.benchmarks.simulation.config import SimulationConfig

    add_target(parser, "Folder or Hub id of the drafter's target.")
    parser.add_argument("--draft", required=True, type=Path, help="Folder of the drafter.")
    parser.add_argument("--prompts", required=True, type=Path, help=PROMPTS_HELP)
    parser.add_argument("--engine", choices=("torch",), default="torch", help="Plain PyTorch, batch 1, exact.")
    parser.add_argument("--output", type=Path, help="JSON file for the figures (default: they are only printed)")
    add_source(parser)
    add_fields(parser, SimulationConfig)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from vllm_mtp.benchmarks.simulation.config import SimulationConfig
    from vllm_mtp.benchmarks.simulation.simulate import simulate

    config = config_of(SimulationConfig, args)
    return simulate(
        config,
        target=args.target,
        draft=args.draft,
        prompts=args.prompts,
        output=args.output,
        **source_of(args),
    )
