"""`vllm-mtp lookup`: let a drafter copy where the text repeats itself, or no longer."""

import argparse
from dataclasses import fields
from pathlib import Path


def add(parser: argparse.ArgumentParser) -> None:
    from vllm_mtp.contract.lookup import Lookup

    parser.add_argument(
        "draft", type=Path, metavar="DRAFT_DIR", help="folder of the drafter; its config.json is changed"
    )
    parser.add_argument("--off", action="store_true", help="the module drafts every token")
    for field in fields(Lookup):
        flag, text = f"--{field.name.replace('_', '-')}", field.metadata["help"]
        parser.add_argument(flag, type=int, help=f"{text}; default: as it is, else {field.default}")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from vllm_mtp.contract.checkpoint import read_config, write_lookup
    from vllm_mtp.contract.lookup import Lookup, lookup_faults

    given = {f.name: getattr(args, f.name) for f in fields(Lookup) if getattr(args, f.name) is not None}
    if args.off and given:
        raise ValueError(f"--off: expected no other setting beside it, got {', '.join(given)}")
    stored = read_config(args.draft).get("lookup") or {}
    kept = {} if lookup_faults(stored) else stored
    lookup = None if args.off else Lookup.of(kept | given)
    write_lookup(args.draft, lookup)
    print(f"{args.draft}: lookup {'off' if lookup is None else lookup.fields()}")
    return 0
