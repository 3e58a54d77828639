"""What both demos' commands do: flags out of a config, paths as seen from the repository, one line for what fails."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from vllm_mtp.benchmarks.harness.checkout import ROOT
from vllm_mtp.common.flags import add_fields, config_of, message_of


def parser_of(config: Any, description: str | None) -> argparse.ArgumentParser:
    """The parser of a demo; config is its class of settings, description its docstring."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_fields(parser, config)
    return parser


def run_demo(
    name: str, config: Any, parser: argparse.ArgumentParser, run: Callable[[Any], None], argv: Sequence[str] | None
) -> int:
    """Runs a demo in the repository's root; returns 0, or 2 with one line on standard error if it cannot run here."""
    args = parser.parse_args(argv)
    try:
        parsed = from_root(config_of(config, args))
        os.chdir(ROOT)
        run(parsed)
    except (ValueError, RuntimeError, OSError) as error:
        print(f"{name}: {' '.join(message_of(error).split())}", file=sys.stderr)
        return 2
    return 0


def from_root(config: Any) -> Any:
    """A config with every path as seen from the repository's root, where the demo runs."""

    def seen(path: Path) -> Path:
        path = path.resolve()
        return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path

    values = {one.name: getattr(config, one.name) for one in fields(config)}
    return replace(config, **{name: seen(value) for name, value in values.items() if isinstance(value, Path)})
