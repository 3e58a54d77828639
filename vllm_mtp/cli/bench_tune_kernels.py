"""`vllm-mtp bench tune-kernels`: time every launch worth trying on this GPU, and write the table entries that won."""

import argparse
from pathlib import Path

from vllm_mtp.common.flags import add_fields, config_of


def add(parser: argparse.ArgumentParser) -> None:
    from vllm_mtp.benchmarks.kernels.config import KernelsConfig

    parser.add_argument("--output", required=True, type=Path, help="Folder for results.json and table.md.")
    add_fields(parser, KernelsConfig)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from vllm_mtp.benchmarks.kernels.config import KernelsConfig
    from vllm_mtp.benchmarks.kernels.tune import tune
    from vllm_mtp.common.provenance import shown_command

    return tune(config_of(KernelsConfig, args), output=args.output, command=shown_command(args.argv))
