"""`vllm-mtp bench claims`: train and compare what the paper compares, on several seeds."""

import argparse
from pathlib import Path

from vllm_mtp.cli.target import add_target
from vllm_mtp.common.flags import add_fields, config_of

_SHIPPED = "examples/stdlib/target"


def add(parser: argparse.ArgumentParser) -> None:
    from vllm_mtp.benchmarks.claims.config import ClaimsConfig

    add_target(parser, "Folder or Hub id.", default=_SHIPPED)
    parser.add_argument("--output", required=True, type=Path, help="Folder; arms found in it are not trained again.")
    parser.add_argument(
        "--generated", nargs="+", type=Path, default=[],
        help="The target's own text, made by `vllm-mtp generate` (default: made here)",
    )  # fmt: skip
    parser.add_argument(
        "--general", nargs="+", type=Path, default=[], help="General text (default: documentation of Debian packages)"
    )
    parser.add_argument("--prompts", type=Path, help="Held-out prompts to measure on (default: made here)")
    parser.add_argument(
        "--draft-vocab", type=Path, help="Draft vocabulary of every arm except the one with the full vocabulary."
    )
    add_fields(parser, ClaimsConfig)
    parser.set_defaults(run=run, goes_on=True)


def run(args: argparse.Namespace) -> int:
    from vllm_mtp.benchmarks.claims.config import ClaimsConfig
    from vllm_mtp.benchmarks.claims.data import Sources
    from vllm_mtp.benchmarks.claims.study import bench
    from vllm_mtp.common.provenance import shown_command

    sources = Sources(
        generated=tuple(args.generated),
        general=tuple(args.general),
        prompts=args.prompts,
        draft_vocab=args.draft_vocab,
    )
    command = shown_command(args.argv)
    return bench(config_of(ClaimsConfig, args), sources, target=args.target, output=args.output, command=command)
