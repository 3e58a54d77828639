"""Lookup: draft tokens that are copied from a request's own text, where it repeats itself.

    x_1 .. x_n   the request's tokens but its first, and the draft so far
    m            the largest length up to max_match with x_{j-m+1} .. x_j = x_{n-m+1} .. x_n for some j < n
    j            the last such place
    the draft    x_{j+1}, if m is at least min_match

Where nothing matches, the module drafts. It computes the first `module_steps` tokens of a draft at most: beyond them a
match of one token is good enough, and where there is none either, the last token again: any token is a valid draft,
since the target verifies it. A request whose text matched goes on matching, by one token more, until its draft is full
or the text has a hole.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vllm_mtp.common.settings import setting

NO_TOKEN = -1
"""In place of a token: none was found."""
LARGEST_VOCABULARY = 1_000_000
_LONGEST = 32
_FIRST_POINT = 0xE000
"""The code point of token 0: beyond the surrogates, which no string should hold."""
_FIRST_UNKNOWN = _FIRST_POINT + LARGEST_VOCABULARY


@dataclass(frozen=True, kw_only=True, slots=True)
class Lookup:
    """What a drafter's config.json says under "lookup"."""

    min_match: int = setting(2, "Tokens that must match for the module to be overruled.")
    max_match: int = setting(8, "Longest match that is looked for; of equal ones the latest counts.")
    module_steps: int = setting(3, "Most tokens of a draft that the module computes, on a CPU and in eval.")

    @classmethod
    def of(cls, settings: Mapping[str, Any] | None) -> "Lookup | None":
        """The settings of config.json's "lookup"; None where there are none: no lookup.

        Raises:
            ValueError: naming every fault.
        """
        if settings is None:
            return None
        faults = lookup_faults(settings)
        if faults:
            raise ValueError("; ".join(faults))
        return cls(**settings)

    def fields(self) -> dict[str, int]:
        return asdict(self)

    def least(self, step: int) -> int:
        """Tokens that must match for the draft token at position `step`, 0-based."""
        return self.min_match if step < self.module_steps else 1


def lookup_faults(settings: Any) -> list[str]:
    """What is wrong with config.json's "lookup", one sentence each."""
    names = [setting.name for setting in fields(Lookup)]
    if not isinstance(settings, Mapping):
        return [f"lookup must be an object with {', '.join(names)}, or absent, got {settings!r}"]
    faults = [f"lookup has no field {name!r}, only {', '.join(names)}" for name in settings if name not in names]
    values = {setting.name: settings.get(setting.name, setting.default) for setting in fields(Lookup)}
    for name, value in values.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            faults.append(f"lookup.{name} must be a positive integer, got {value!r}")
    if not faults and not values["min_match"] <= values["max_match"] <= _LONGEST:
        faults.append(
            f"lookup must have min_match <= max_match <= {_LONGEST}, got {values['min_match']} and "
            f"{values['max_match']}"
        )
    return faults


def find(text: Sequence[int], least: int, most: int) -> int:
    """The token that followed the longest earlier occurrence of the text's end, read off its definition.

    Args:
        text: x_1 .. x_n.
        least: tokens that must match.
        most: tokens of a match that are looked at.

    Returns:
        The token after the latest of the longest matches, or NO_TOKEN.
    """
    n = len(text)
    longest, token = 0, NO_TOKEN
    for j in range(n - 1):
        m = 0
        while m < min(most, j + 1) and text[j - m] == text[n - 1 - m]:
            m += 1
        if m >= max(longest, 1):
            longest, token = m, text[j + 1]
    return token if longest >= least else NO_TOKEN


class Text:
    """A request's tokens, to which a draft is appended, in which `find` is fast.

    They are kept as a string, a code point for each token: nothing at hand searches faster. A token that is not known,
    NO_TOKEN, has a code point of its own and so matches nothing.
    """

    def __init__(self, tokens_S: NDArray[np.int32]) -> None:
        points_S = tokens_S.astype("<i4") + _FIRST_POINT
        if len(points_S) and points_S.min() < _FIRST_POINT:
            unknown = np.flatnonzero(points_S < _FIRST_POINT)
            points_S[unknown] = _FIRST_UNKNOWN + np.arange(len(unknown)) % (sys.maxunicode - _FIRST_UNKNOWN)
        self._points = points_S.tobytes().decode("utf-32-le")

    def append(self, token: int) -> None:
        self._points += chr(token + _FIRST_POINT)

    def last(self) -> int:
        return ord(self._points[-1]) - _FIRST_POINT

    def find(self, least: int, most: int) -> int:
        """As `find`: where the last token stood, then before that place where the last two did, and so on."""
        points, longest = self._points, 0
        end = len(points) - 1
        for length in range(1, min(most, end) + 1):
            place = points.rfind(points[-length:], 0, end)
            if place < 0:
                break
            end, longest = place + length, length
        if not longest or longest < least or ord(points[end]) >= _FIRST_UNKNOWN:
            return NO_TOKEN
        return ord(points[end]) - _FIRST_POINT
