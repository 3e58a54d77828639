"""`vllm-mtp vocab`: choose the tokens that a drafter may draft."""

import argparse
from pathlib import Path

from vllm_mtp.cli.target import add_source, add_target


def add(parser: argparse.ArgumentParser) -> None:
    add_target(parser, "Folder or Hub id of the target; its tokenizer is used.")
    parser.add_argument("--data", required=True, nargs="+", type=Path, help="What `vllm-mtp train --data` takes.")
    parser.add_argument("--size", type=int, required=True, help="Tokens of the draft vocabulary.")
    parser.add_argument("--output", required=True, type=Path, help="JSON file for `vllm-mtp train --draft-vocab`.")
    parser.add_argument("--max-tokens", type=int, default=20_000_000, help="Most tokens to count (default: 20,000,000)")
    add_source(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from vllm_mtp.training.data.draft_vocab import make_draft_vocab

    return make_draft_vocab(
        target=args.target,
        data=args.data,
        size=args.size,
        output=args.output,
        max_tokens=args.max_tokens,
        revision=args.revision,
        trust_remote_code=args.trust_remote_code,
    )
