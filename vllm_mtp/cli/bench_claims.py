"""`vllm-mtp bench claims`: train and compare what the paper compares, on several seeds."""

import argparse
from pathlib import Path

from vllm_mtp.cli.flags import add_fields, config_of


def add(parser: argparse.ArgumentParser) -> None:
    from vllm_mtp.benchmarks.claims.config import CLAIMS, ENGINES, ClaimsConfig
    from vllm_mtp.training.config import DTYPES

    parser.add_argument("--target", default="examples/stdlib/target", help="folder or Hub id; default: the shipped one")
    parser.add_argument("--output", required=True, type=Path, help="folder; arms that are in it are not trained again")
    parser.add_argument(
        "--generated", nargs="+", type=Path, default=[], help="the target's own text, of `vllm-mtp generate`"
    )
    parser.add_argument(
        "--general", nargs="+", type=Path, default=[], help="general text; default: documentation of Debian packages"
    )
    parser.add_argument("--prompts", type=Path, help="held-out prompts to measure on")
    parser.add_argument("--draft-vocab", type=Path, help="every arm drafts from it but that of the full vocabulary")
    add_fields(parser, ClaimsConfig, {"claims": CLAIMS, "engine": ENGINES, "dtype": DTYPES})
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from vllm_mtp.benchmarks.claims.config import ClaimsConfig
    from vllm_mtp.benchmarks.claims.data import Sources
    from vllm_mtp.benchmarks.claims.study import bench
    from vllm_mtp.common.provenance import command_line, relative

    sources = Sources(
        generated=tuple(args.generated),
        general=tuple(args.general),
        prompts=args.prompts,
        draft_vocab=args.draft_vocab,
    )
    argv = [relative(word) for word in command_line(args.argv)]
    return bench(config_of(ClaimsConfig, args), sources, target=args.target, output=args.output, argv=argv)
