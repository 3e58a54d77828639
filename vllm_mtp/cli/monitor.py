"""`vllm-mtp monitor`: what a server's drafter gives now, and what to do about it."""

import argparse
from pathlib import Path

from vllm_mtp.common.flags import add_fields, config_of


def add(parser: argparse.ArgumentParser) -> None:
    from vllm_mtp.monitor.config import MonitorConfig

    parser.add_argument("url", metavar="URL", help="Of the server, such as http://localhost:8000.")
    parser.add_argument(
        "--draft", type=Path, help="Folder of the drafter: its held-out acceptance length is compared with the served."
    )
    parser.add_argument(
        "--tune",
        type=Path,
        help="Folder that `vllm-mtp tune` wrote for this drafter and machine: its acceptance length is compared with "
        "the served, in place of --draft's, and the gain is told from its costs of a round.",
    )
    parser.add_argument("--once", action="store_true", help="End after one interval.")
    parser.add_argument("--json", action="store_true", help="Print a line of JSON after each interval.")
    add_fields(parser, MonitorConfig)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from vllm_mtp.monitor.config import MonitorConfig
    from vllm_mtp.monitor.watch import monitor

    config = config_of(MonitorConfig, args)
    return monitor(config, url=args.url, draft=args.draft, tune=args.tune, once=args.once, as_json=args.json)
