"""Flags of a command line, made from config classes and their settings."""

import argparse
from collections.abc import Callable
from dataclasses import Field, dataclass, fields, is_dataclass
from types import NoneType
from typing import Any, get_args, get_origin

from vllm_mtp.common.errors import InputError
from vllm_mtp.common.settings import Setting, setting_of

Parser = argparse.ArgumentParser | argparse._ArgumentGroup
_SHORT = {"num_speculative_tokens": "spec_tokens"}
"""Fields whose flag is shorter than their name, as vLLM's is: what help and errors say. The long form is taken too."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Kind:
    """A field's type, taken apart."""

    of_one: Callable[[str], Any]
    """From the word of a command line to a value."""
    many: bool
    optional: bool

    @classmethod
    def of(cls, annotation: Any) -> "_Kind":
        """The kind of an annotation: `int`, `int | None`, `tuple[int, ...]`, and so for other types."""
        optional = NoneType in get_args(annotation)
        inner = next(one for one in get_args(annotation) if one is not NoneType) if optional else annotation
        many = get_origin(inner) is tuple
        return cls(of_one=get_args(inner)[0] if many else inner, many=many, optional=optional)


def add_fields(parser: Parser, config: Any) -> None:
    """A flag for every setting of a config class; a field that is a config class itself gets a group of its own.

    Fields that were not made by `setting` get none; inherited ones come behind a class's own.
    """
    for one in sorted(fields(config), key=lambda one: one.name not in config.__annotations__):
        about = setting_of(one)
        if isinstance(one.type, type) and is_dataclass(one.type):
            title = (one.type.__doc__ or "").partition("\n")[0].rstrip(".")
            add_fields(parser.add_argument_group(title), one.type)
        elif about is not None:
            _add_field(parser, one, about)


def config_of(config: Any, args: argparse.Namespace) -> Any:
    """The config of that class that the flags say."""
    values: dict[str, Any] = {}
    for one in fields(config):
        if isinstance(one.type, type) and is_dataclass(one.type):
            values[one.name] = config_of(one.type, args)
        elif setting_of(one) is not None:
            value = getattr(args, one.name)
            values[one.name] = tuple(value) if isinstance(value, list) else value
    return config(**values)


def words_of(config: Any) -> list[str]:
    """The words of a command line that make this config; what is as by default is left out."""
    words: list[str] = []
    for one in fields(config):
        value = getattr(config, one.name)
        if setting_of(one) is not None and value != one.default:
            values = value if isinstance(value, tuple) else () if isinstance(value, bool) else (value,)
            words += [flag_of(f"no_{one.name}" if value is False else one.name), *map(str, values)]
    return words


def flag_of(name: str) -> str:
    """The flag of a field: its one spelling in help and errors."""
    return _spelled(_SHORT.get(name, name))


def message_of(error: Exception) -> str:
    """What an error says, with the flag in place of a field's name."""
    return f"{flag_of(error.field)}: {error.message}" if isinstance(error, InputError) else str(error)


def add_hidden(parser: Parser, name: str, **how: Any) -> None:
    """A flag that is taken and not shown: an earlier spelling."""
    parser.add_argument(_spelled(name), help=argparse.SUPPRESS, **how)


def _spelled(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _add_field(parser: Parser, one: "Field[Any]", about: Setting) -> None:
    shown = _SHORT.get(one.name, one.name)
    text = about.help.replace("%", "%%")
    how: dict[str, Any] = {"dest": one.name}
    if isinstance(one.default, bool):
        how |= {"action": "store_true"}
    elif bool in get_args(one.type):
        text = f"{text} (default: {_shown(one.default, about)})"
        how |= {"action": argparse.BooleanOptionalAction}
    else:
        kind = _Kind.of(one.type)
        text = f"{text} (default: {_shown(one.default, about)})"
        how |= {"type": _or_none(kind.of_one) if kind.optional else kind.of_one, "nargs": "+" if kind.many else None}
        how |= {"choices": about.choices} if about.choices else {"metavar": shown.replace("-", "_").upper()}
    parser.add_argument(flag_of(one.name), help=text, default=one.default, **how)
    for name in dict.fromkeys((one.name, *about.old)):
        if name != shown:
            add_hidden(parser, name, default=argparse.SUPPRESS, **how)


def _or_none(of_one: Callable[[str], Any]) -> Callable[[str], Any]:
    """0 is taken for None, which it once stood for."""

    def of(word: str) -> Any:
        return of_one(word) or None

    of.__name__ = getattr(of_one, "__name__", "value")  # what argparse calls it where it fails
    return of


def _shown(default: Any, about: Setting) -> str:
    if default is None:
        return about.none
    if isinstance(default, tuple):
        return " ".join(map(str, default)) or "none"
    return f"{default:,}" if isinstance(default, int) else str(default)
