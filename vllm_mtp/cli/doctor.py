"""`vllm-mtp doctor`: what vLLM would refuse or pass over, in seconds, before anything is loaded."""

import argparse

from vllm_mtp.common.flags import add_fields, config_of


def add(parser: argparse.ArgumentParser) -> None:
    from vllm_mtp.doctor.config import DoctorConfig

    parser.add_argument("target", metavar="TARGET", help="Folder or Hub id of the target, as it will be served.")
    parser.add_argument("draft", metavar="DRAFT_DIR", help="Folder of the drafter, as it will be given to vLLM.")
    parser.add_argument("--json", action="store_true", help="Print JSON instead of lines.")
    add_fields(parser, DoctorConfig)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from vllm_mtp.doctor.config import DoctorConfig
    from vllm_mtp.doctor.report import report

    return report(config_of(DoctorConfig, args), target=args.target, draft=args.draft, as_json=args.json)
