"""`vllm-mtp report`: what benchmarks found, as one page."""

import argparse
from pathlib import Path

from vllm_mtp.common.flags import add_fields, config_of


def add(parser: argparse.ArgumentParser) -> None:
    from vllm_mtp.benchmarks.report.config import ReportConfig

    parser.add_argument(
        "folders", nargs="+", type=Path, metavar="DIR",
        help="Folders with results.json of bench acceptance, bench serving, bench round and tune, any of them.",
    )  # fmt: skip
    parser.add_argument("--output", required=True, type=Path, help="The page, such as report.html.")
    add_fields(parser, ReportConfig)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from vllm_mtp.benchmarks.report.config import ReportConfig
    from vllm_mtp.benchmarks.report.report import report

    return report(config_of(ReportConfig, args), folders=args.folders, output=args.output)
