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

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

NO_TOKEN = -1
"""In place of a token: none was found."""
_LONGEST = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Lookup:
    """What a drafter's config.json says under "lookup"."""

    min_match: int = field(default=2, metadata={"help": "tokens that must match for the module to be overruled"})
    max_match: int = field(default=8, metadata={"help": "longest match looked for; of equals the latest counts"})
    module_steps: int = field(
        default=3, metadata={"help": "tokens of a draft that the module computes at most, on a CPU and in eval"}
    )

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
    """A request's tokens with room for a draft, in which `find` is fast. NO_TOKEN, not known, matches nothing."""

    def __init__(self, tokens_S: NDArray[np.int32], num_speculative_tokens: int) -> None:
        self._tokens = np.empty(len(tokens_S) + num_speculative_tokens, dtype=np.int32)
        self._tokens[: len(tokens_S)] = tokens_S
        self._length = len(tokens_S)
        unknown = np.flatnonzero(tokens_S < 0)
        self._tokens[unknown] = NO_TOKEN - np.arange(len(unknown))

    def append(self, token: int) -> None:
        self._tokens[self._length] = token
        self._length += 1

    def last(self) -> int:
        return int(self._tokens[self._length - 1])

    def find(self, least: int, most: int) -> int:
        """As `find`: all places of the last token first, then fewer and fewer of them."""
        tokens_S, last = self._tokens[: self._length], self._length - 1
        if last < 1:
            return NO_TOKEN
        places = np.flatnonzero(tokens_S[:last] == tokens_S[last])
        length = 1
        while length < most and len(places):
            longer = places[places >= length]
            longer = longer[tokens_S[longer - length] == tokens_S[last - length]]
            if not len(longer):
                break
            places, length = longer, length + 1
        return max(int(tokens_S[places[-1] + 1]), NO_TOKEN) if len(places) and length >= least else NO_TOKEN
