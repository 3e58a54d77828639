"""`vllm-mtp bench kernels`: time and memory of the kernels, beside others and the floor."""

import argparse
from pathlib import Path

from vllm_mtp.common.flags import add_fields, config_of


def add(parser: argparse.ArgumentParser) -> None:
    from vllm_mtp.benchmarks.kernels.config import KernelsConfig

    parser.add_argument("--output", required=True, type=Path, help="Folder for results.json, table.md and plot.png.")
    add_fields(parser, KernelsConfig)
    parser.add_argument("--quick", dest="size", action="store_const", const="quick", help="The same as --size quick.")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from vllm_mtp.benchmarks.kernels.bench import bench
    from vllm_mtp.benchmarks.kernels.config import KernelsConfig
    from vllm_mtp.common.provenance import shown_command

    return bench(config_of(KernelsConfig, args), output=args.output, command=shown_command(args.argv))
