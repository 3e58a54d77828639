"""`vllm-mtp vocab`: choose the tokens that a drafter may draft."""

import argparse
from pathlib import Path

from vllm_mtp.cli.target import add_target
from vllm_mtp.common.flags import add_fields, config_of


def add(parser: argparse.ArgumentParser) -> None:
    from vllm_mtp.training.data.chat.options import TemplateOptions

    add_target(parser, "Folder or Hub id of the target; its tokenizer is used.")
    parser.add_argument("--data", required=True, nargs="+", type=Path, help="What `vllm-mtp train --data` takes.")
    parser.add_argument("--size", type=int, required=True, help="Tokens of the draft vocabulary.")
    parser.add_argument("--output", required=True, type=Path, help="JSON file for `vllm-mtp train --draft-vocab`.")
    parser.add_argument("--max-tokens", type=int, default=20_000_000, help="Most tokens to count (default: 20,000,000)")
    parser.add_argument("--skip-bad", action="store_true", help="Leave out and count records that cannot be used.")
    add_fields(parser.add_argument_group("Conversations that exist"), TemplateOptions)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from vllm_mtp.training.data.chat.options import TemplateOptions
    from vllm_mtp.training.data.draft_vocab import make_draft_vocab

    return make_draft_vocab(
        target=args.target,
        data=args.data,
        size=args.size,
        output=args.output,
        max_tokens=args.max_tokens,
        template=config_of(TemplateOptions, args),
        skip_bad=args.skip_bad,
    )
