"""TARGET: the first word of a command, as in `vllm serve MODEL`; `--target` is an earlier spelling.

Commands that load it by transformers take `--revision` and `--trust-remote-code` beside it, as those do that serve it.
"""

import argparse
import shlex
from pathlib import Path
from typing import Any

from vllm_mtp.common.errors import InputError
from vllm_mtp.common.flags import add_hidden

PROMPTS_HELP = (
    'Text with prompts between lines "-----", a JSON, JSONL or Parquet file of prompts or conversations, a folder of '
    "these, or hf://OWNER/NAME[:[CONFIG:]SPLIT] of the Hub."
)
"""Of commands that measure on one set of prompts."""


def add_target(parser: argparse.ArgumentParser, text: str, default: str | None = None) -> None:
    """TARGET and `--target`; without a default one of them must be given."""
    shown = f"{text} (default: {default})" if default else text
    parser.usage = f"%(prog)s {'[TARGET]' if default else 'TARGET'} [options]"
    parser.add_argument("target", nargs="?", metavar="TARGET", help=shown)
    add_hidden(parser, "target", dest="target_flag")
    parser.set_defaults(target_default=default)


def add_pair(parser: argparse.ArgumentParser) -> None:
    """A target, a drafter and prompts to measure them on, and where the rows go."""
    add_target(parser, "Folder or Hub id of the drafter's target.")
    parser.add_argument("--draft", required=True, type=Path, help="Folder of the drafter.")
    parser.add_argument("--prompts", required=True, type=Path, help=PROMPTS_HELP)
    parser.add_argument("--output", required=True, type=Path, help="Folder; rows found in it are not measured again.")


def pair_of(args: argparse.Namespace) -> dict[str, Any]:
    """What the flags of `add_pair` say, and the command, as those who measure take it."""
    from vllm_mtp.common.provenance import shown_command

    given = {name: getattr(args, name) for name in ("target", "draft", "prompts", "output")}
    return given | {"command": shown_command(args.argv)}


def add_source(parser: argparse.ArgumentParser) -> None:
    """`--revision` and `--trust-remote-code`, in vLLM's words."""
    parser.add_argument("--revision", help="Branch, tag or commit of a Hub id (default: its default branch)")
    parser.add_argument("--trust-remote-code", action="store_true", help="Run code that comes with the target.")


def source_of(args: argparse.Namespace) -> dict[str, Any]:
    """What the flags of `add_source` say, as those who read a target take it."""
    return {"revision": args.revision, "trust_remote_code": args.trust_remote_code}


def serve_line(target: str, draft: Path) -> str:
    """What serves a drafter, to be pasted into a shell."""
    return f"vllm serve {shlex.quote(target)} --spec-method mtp --spec-model {shlex.quote(str(draft))} --spec-tokens 3"


def take_last_word(args: argparse.Namespace, rest: list[str]) -> list[str]:
    """Takes a TARGET that stands behind the flags, where some versions of argparse leave it; returns what is left."""
    waits = hasattr(args, "target_flag") and args.target is None
    if waits and len(rest) == 1 and not rest[0].startswith("-"):
        args.target = rest.pop()
    return rest


def choose_target(args: argparse.Namespace) -> None:
    """Leaves in `args.target` what was given either way.

    Raises:
        InputError: if the target was given twice, or not at all.
    """
    if not hasattr(args, "target_flag"):
        return
    if args.target is not None and args.target_flag is not None:
        raise InputError("target", f"expected one target, got {args.target} and {args.target_flag}")
    args.target = args.target or args.target_flag or args.target_default
    if args.target is None:
        raise InputError("target", "expected a folder or Hub id as TARGET, the first word of the command, got none")
