"""Settings: fields of config classes, with their help, choices and earlier names beside them.

A command line is made from them (flags.py), and classes check their choices and bounds here, so that a default, its
help and its check are written once.
"""

import json
from collections.abc import Sequence
from dataclasses import Field, dataclass, field, fields
from typing import Any, TypeVar

from vllm_mtp.common.errors import InputError

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """What a field says of itself besides its type and default."""

    help: str
    """One or two sentences, for `--help`."""
    choices: tuple[str, ...] = ()
    """All that a text, or each text of a tuple, may be; empty: anything."""
    none: str = "automatic"
    """How the help calls a default of None."""
    old: tuple[str, ...] = ()
    """Earlier names, which the command line still takes."""


def setting(
    default: T,
    help: str,
    *,
    choices: Sequence[str] | None = None,
    none: str = "automatic",
    old: Sequence[str] = (),
) -> T:
    """A field of a config class; see `Setting`."""
    about = Setting(help=help, choices=tuple(choices or ()), none=none, old=tuple(old))
    made: T = field(default=default, metadata={"setting": about})
    return made


def setting_of(one: "Field[Any]") -> Setting | None:
    """What `setting` was told of a field; None for a field that was made without it."""
    about: Setting | None = one.metadata.get("setting")
    return about


_HOTTEST = 2


def check_choices(config: Any) -> None:
    """Refuses a text that is not one of its field's choices.

    Raises:
        InputError: naming the first such field.
    """
    for one in fields(config):
        about = setting_of(one)
        if about is None or not about.choices:
            continue
        for value in _values(config, one.name):
            if value not in about.choices:
                raise InputError(one.name, f"expected one of {', '.join(about.choices)}, got {value!r}")


def check_at_least(config: Any, **least: float) -> None:
    """Refuses a number, or any number of a tuple, below its bound, and an empty tuple; None is fine.

    Raises:
        InputError: naming the first such field.
    """
    for name, bound in least.items():
        values = _values(config, name)
        if not values and getattr(config, name) is not None:
            raise InputError(name, f"expected at least one number of at least {bound}, got none")
        if not all(value >= bound for value in values):  # which no NaN is
            raise InputError(name, f"expected at least {bound}, got {' '.join(map(str, values))}")


def check_temperature(config: Any) -> None:
    """Refuses a `temperature`, or any of several, that vLLM does not take: below 0 or above 2.

    Raises:
        InputError: saying what came.
    """
    check_at_least(config, temperature=0)
    values = _values(config, "temperature")
    if max(values) > _HOTTEST:
        raise InputError("temperature", f"expected at most {_HOTTEST}, got {' '.join(map(str, values))}")


def check_share(config: Any, name: str) -> None:
    """Refuses a field's number outside (0, 1]; None is left alone.

    Raises:
        InputError: naming the field and what came.
    """
    value = getattr(config, name)
    if value is not None and not 0 < value <= 1:
        raise InputError(name, f"expected more than 0 and at most 1, got {value}")


def object_of(name: str, text: str | None) -> dict[str, Any]:
    """The JSON object of a field that is one; empty where it was not given.

    Raises:
        InputError: if the text is no JSON object.
    """
    if text is None:
        return {}
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits, brackets nested too deep
        reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error).partition(";")[0]
        raise InputError(name, f"expected a JSON object, got {text} ({reason})") from error
    if not isinstance(value, dict):
        raise InputError(name, f"expected a JSON object, got {text}")
    return value


def _values(config: Any, name: str) -> tuple[Any, ...]:
    value = getattr(config, name)
    return value if isinstance(value, tuple) else () if value is None else (value,)
