"""`vllm-mtp bench kernels`: time and memory of the kernels, beside others and the floor."""

import argparse
from pathlib import Path

from vllm_mtp.cli.flags import add_fields, config_of


def add(parser: argparse.ArgumentParser) -> None:
    from vllm_mtp.benchmarks.kernels.config import DEVICES, KERNELS, SIZES, KernelsConfig

    parser.add_argument(
        "--output", required=True, type=Path, help="folder for kernels.json, table.md and kernels.png, or tune.*"
    )
    add_fields(parser, KernelsConfig, {"size": SIZES, "device": DEVICES, "kernels": KERNELS})
    parser.add_argument("--quick", dest="size", action="store_const", const="quick", help="the same as --size quick")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from vllm_mtp.benchmarks.kernels.bench import bench
    from vllm_mtp.benchmarks.kernels.config import KernelsConfig
    from vllm_mtp.benchmarks.kernels.tune import tune
    from vllm_mtp.common.provenance import command_line, relative

    config, command = config_of(KernelsConfig, args), " ".join(relative(word) for word in command_line(args.argv))
    return (tune if config.tune else bench)(config, output=args.output, command=command)
