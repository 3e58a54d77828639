"""`vllm-mtp vocab`: choose the tokens that a drafter may draft."""

import argparse
from pathlib import Path

from vllm_mtp.cli.target import add_source, add_target, serve_line, source_of
from vllm_mtp.common.flags import add_fields, config_of


def add(parser: argparse.ArgumentParser) -> None:
    from vllm_mtp.training.data.chat.options import TemplateOptions

    add_target(parser, "Folder or Hub id of the target; its tokenizer is used.")
    parser.add_argument("--data", required=True, nargs="+", type=Path, help="What `vllm-mtp train --data` takes.")
    parser.add_argument("--size", type=int, required=True, help="Tokens of the draft vocabulary.")
    parser.add_argument(
        "--draft", type=Path, help="Folder of a finished drafter that is to have this vocabulary (default: none)"
    )
    parser.add_argument(
        "--output", required=True, type=Path,
        help="JSON file for `vllm-mtp train --draft-vocab`; with --draft the folder of the new drafter.",
    )  # fmt: skip
    parser.add_argument("--max-tokens", type=int, default=20_000_000, help="Most tokens to count (default: 20,000,000)")
    parser.add_argument("--skip-bad", action="store_true", help="Leave out and count records that cannot be used.")
    add_source(parser)
    add_fields(parser.add_argument_group("Conversations that exist"), TemplateOptions)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from vllm_mtp.training.cut import check_draft, cut_draft
    from vllm_mtp.training.data.chat.options import TemplateOptions
    from vllm_mtp.training.data.draft_vocab import check_vocab_file, count_draft_vocab, save_draft_vocab

    if args.draft is None:
        check_vocab_file(args.output)
    else:
        check_draft(args.draft, args.target, args.output, **source_of(args))
    draft_ids_J, info = count_draft_vocab(
        target=args.target,
        data=args.data,
        size=args.size,
        max_tokens=args.max_tokens,
        template=config_of(TemplateOptions, args),
        skip_bad=args.skip_bad,
        **source_of(args),
    )
    if args.draft is None:
        save_draft_vocab(args.output, draft_ids_J, info)
    else:
        cut_draft(args.draft, draft_ids_J, args.output, info)
        print(f"Serve it: {serve_line(args.target, args.output)}")
    return 0
