"""Flags of the command line, made from config classes."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any


def add_fields(parser: argparse.ArgumentParser, config: Any, choices: Mapping[str, Sequence[str]] = {}) -> None:
    """A flag for every field of a config class, with its default and, where the field has one, its "help"."""
    for field in fields(config):
        flag, default, text = f"--{field.name.replace('_', '-')}", field.default, field.metadata.get("help")
        if isinstance(default, bool):
            parser.add_argument(flag, action="store_true", help=text)
            continue
        values = default if isinstance(default, tuple) else (default,)
        shown = f"default {' '.join(str(value) for value in values)}"
        parser.add_argument(
            flag,
            type=type(values[0]),
            nargs="+" if isinstance(default, tuple) else None,
            default=default,
            choices=choices.get(field.name),
            help=f"{text}; {shown}" if text else shown,
        )


def config_of(config: Any, args: argparse.Namespace) -> Any:
    """The config of that class that the flags say."""
    values = {field.name: getattr(args, field.name) for field in fields(config)}
    return config(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})
