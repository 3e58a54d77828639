"""The `vllm-mtp` command: a file for each of its commands, which imports what it runs when it runs."""

import argparse
import sys
from collections.abc import Sequence

from vllm_mtp.cli import bench, doctor, evaluate, export, generate, lookup, monitor, report, train, tune, vocab
from vllm_mtp.cli.target import choose_target, take_last_word
from vllm_mtp.common.errors import is_out_of_memory
from vllm_mtp.common.flags import message_of

DESCRIPTION = "Train an MTP drafter for a frozen target, and measure it."


def make_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    parser = argparse.ArgumentParser(prog="vllm-mtp", description=DESCRIPTION)
    commands = parser.add_subparsers(dest="command", required=True)
    train.add(commands.add_parser("train", help="distil a drafter from a frozen target"))
    vocab.add(commands.add_parser("vocab", help="choose the tokens that a drafter may draft"))
    generate.add(commands.add_parser("generate", help="let the target write its own training data"))
    lookup.add(commands.add_parser("lookup", help="let a drafter copy where the text repeats itself, or no longer"))
    export.add(commands.add_parser("export", help="give a drafter the names of Transformers' MTP models"))
    doctor.add(commands.add_parser("doctor", help="say what vLLM would refuse or pass over, before it is started"))
    monitor.add(commands.add_parser("monitor", help="watch a drafter that is served, and say what to do about it"))
    tune.add(commands.add_parser("tune", help="measure, choose how to serve a drafter here, and check the choice"))
    evaluate.add(commands.add_parser("eval", help="measure a drafter exactly, without vLLM"))
    bench.add(commands.add_parser("bench", help="measure a drafter in vLLM"))
    report.add(commands.add_parser("report", help="write one page on what benchmarks found, with costs"))
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; a bad input is one line on standard error and exit status 2."""
    parser = make_parser()
    args, rest = parser.parse_known_args(argv)
    if rest := take_last_word(args, rest):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    args.argv = argv
    try:
        choose_target(args)
        return int(args.run(args))
    except (ValueError, OSError) as error:
        print(f"vllm-mtp {args.command}: {' '.join(message_of(error).split())}", file=sys.stderr)
        return 2
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        said = " ".join(str(error).split())
        advice = f"; the same command {_does_what(args)} where more is free"
        print(f"vllm-mtp {args.command}: out of memory{advice} {said}".rstrip(), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"vllm-mtp {args.command}: interrupted; the same command {_does_what(args)}", file=sys.stderr)
        return 130


def _does_what(args: argparse.Namespace) -> str:
    """What a command does that is given again after it was cut short."""
    return "goes on" if getattr(args, "goes_on", False) else "starts anew"
