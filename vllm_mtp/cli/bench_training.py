"""`vllm-mtp bench training`: a step of training by its parts, beside its arithmetic."""

import argparse
from pathlib import Path

from vllm_mtp.cli.target import add_source, add_target, source_of
from vllm_mtp.common.flags import add_fields, config_of


def add(parser: argparse.ArgumentParser) -> None:
    from vllm_mtp.benchmarks.training.config import StepConfig

    add_target(parser, "Folder or Hub id of a causal LM.")
    parser.add_argument("--output", required=True, type=Path, help="Folder for results.json, table.md and plot.png.")
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto takes a GPU where there is one."
    )
    add_source(parser)
    add_fields(parser, StepConfig)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from vllm_mtp.benchmarks.training.bench import bench
    from vllm_mtp.benchmarks.training.config import StepConfig
    from vllm_mtp.common.provenance import shown_command

    return bench(
        config_of(StepConfig, args),
        target=args.target,
        output=args.output,
        device=args.device,
        command=shown_command(args.argv),
        **source_of(args),
    )
