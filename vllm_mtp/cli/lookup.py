"""`vllm-mtp lookup`: let a drafter copy where the text repeats itself, or no longer."""

import argparse
from dataclasses import fields
from pathlib import Path

from vllm_mtp.common.errors import InputError
from vllm_mtp.common.flags import flag_of
from vllm_mtp.common.settings import setting_of


def add(parser: argparse.ArgumentParser) -> None:
    from vllm_mtp.contract.lookup import Lookup

    parser.add_argument(
        "draft", type=Path, metavar="DRAFT_DIR", help="Folder of the drafter; its config.json is changed."
    )
    parser.add_argument("--off", action="store_true", help="Let the module draft every token.")
    for field in fields(Lookup):
        about = setting_of(field)
        assert about is not None
        text = f"{about.help} (default: as it is, else {field.default})"
        parser.add_argument(flag_of(field.name), type=int, help=text)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from vllm_mtp.contract.checkpoint import read_config, write_lookup
    from vllm_mtp.contract.lookup import Lookup, lookup_faults

    given = {f.name: getattr(args, f.name) for f in fields(Lookup) if getattr(args, f.name) is not None}
    if args.off and given:
        raise InputError("off", f"expected no other setting beside it, got {', '.join(given)}")
    stored = read_config(args.draft).get("lookup") or {}
    kept = {} if lookup_faults(stored) else stored
    lookup = None if args.off else Lookup.of(kept | given)
    write_lookup(args.draft, lookup)
    print(f"{args.draft}: lookup {'off' if lookup is None else lookup.fields()}")
    return 0
