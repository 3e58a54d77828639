"""`vllm-mtp export`: a drafter under the names of Transformers' MTP models."""

import argparse
from pathlib import Path

from vllm_mtp.cli.target import add_source, add_target, source_of


def add(parser: argparse.ArgumentParser) -> None:
    add_target(parser, "Folder or Hub id of the drafter's target; its config is read.")
    parser.add_argument("--draft", required=True, type=Path, help="Folder of the drafter.")
    parser.add_argument(
        "--output", required=True, type=Path, help="Safetensors file, to be put beside the target's own."
    )
    add_source(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from vllm_mtp.training.transformers_layout import export_to_transformers

    tensors = export_to_transformers(args.draft, args.target, args.output, **source_of(args))
    print(f"{args.output}: {len(tensors)} tensors, {min(tensors)} and so on; the config needs num_mtp_layers 1")
    return 0
