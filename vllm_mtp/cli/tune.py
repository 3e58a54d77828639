"""`vllm-mtp tune`: how to serve a drafter on this machine, predicted from measurements and checked by a run."""

import argparse
from pathlib import Path

from vllm_mtp.cli.target import PROMPTS_HELP
from vllm_mtp.common.flags import add_fields, config_of


def add(parser: argparse.ArgumentParser) -> None:
    from vllm_mtp.benchmarks.tune.config import TuneConfig

    parser.add_argument("target", metavar="TARGET", help="Folder or Hub id of the target, as it will be served.")
    parser.add_argument(
        "draft", nargs="?", type=Path, metavar="DRAFT_DIR",
        help="Folder of the drafter; it is left as it is. Without it: how much one must give to pay here",
    )  # fmt: skip
    prompts = f"{PROMPTS_HELP} Take what the drafter was not trained on, and what you will serve."
    parser.add_argument("--prompts", required=True, type=Path, help=prompts)
    parser.add_argument("--output", required=True, type=Path, help="Folder; rows found in it are not measured again.")
    parser.add_argument("--json", action="store_true", help="Print JSON instead of the table.")
    add_fields(parser, TuneConfig)
    parser.set_defaults(run=run, goes_on=True)


def run(args: argparse.Namespace) -> int:
    from vllm_mtp.benchmarks.tune.config import TuneConfig
    from vllm_mtp.benchmarks.tune.tune import tune
    from vllm_mtp.cli.target import pair_of

    return tune(config_of(TuneConfig, args), **pair_of(args), as_json=args.json)
