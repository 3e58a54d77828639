"""How a target reads on: the rows of its logits, and what it forgets when draft tokens are rejected.

A KV cache is cut back to the accepted tokens. The state of linear attention, Mamba or a convolution cannot be: there
every token is read alone, and none before the one ahead of it is accepted. That takes as many passes as without
drafting, which matters to no figure here. Which way is right for a target is probed, not looked up by its name.
"""

# Shapes: T tokens, D hidden size, V vocabulary.

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from vllm_mtp.common.errors import InputError
from vllm_mtp.training.frozen.target import FrozenTarget

_MAX_DIFFERENCE = 1e-3
"""Of hidden states read in parts from those read at once, as a share of the largest; float32 has about 1e-6."""
_PROBE = (24, 5, 3, 1, 4)
"""Tokens read at a time; of the second part the last two are taken back."""


class Reading(ABC):
    """A text that a target has read as far as it is kept."""

    at_once = True
    """Whether `read` takes all tokens in one pass; else each in its own, when it is asked for."""

    def __init__(self, target: FrozenTarget) -> None:
        self.target = target

    def begin(self, ids_T: Tensor) -> tuple[Tensor, Tensor]:
        """Reads a text's beginning: hidden states behind each token, [T, D], and the last one's logits, [V]."""
        hidden_TD = self._pass(ids_T)
        return hidden_TD, self.target.head.logits(hidden_TD[-1:])[0]

    def read(self, ids_T: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Reads on: hidden state and logits, [D] and [V], behind each token. Who stops early keeps no more."""
        for part_ids in ids_T.split(len(ids_T) if self.at_once else 1):
            hidden_TD = self._pass(part_ids)
            yield from zip(hidden_TD, self.target.head.logits(hidden_TD), strict=True)

    @abstractmethod
    def keep(self, num_tokens: int) -> None:
        """Forgets all of the last `read` but its first num_tokens, at least one."""

    @abstractmethod
    def _pass(self, ids_T: Tensor) -> Tensor:
        """One pass over tokens that follow what was read: hidden states, [T, D]."""


class CutBack(Reading):
    """The KV cache is cut back to what is kept."""

    def __init__(self, target: FrozenTarget) -> None:
        from transformers import DynamicCache

        super().__init__(target)
        # Without the config, which would make caches of the sliding window's length: those forget what a rejected
        # draft token has pushed out. The window is in the attention mask all the same.
        self._cache = DynamicCache()
        self._num_read = 0

    def keep(self, num_tokens: int) -> None:
        if num_tokens < self._num_read:
            self._cache.crop(num_tokens - self._num_read)

    def _pass(self, ids_T: Tensor) -> Tensor:
        self._num_read = len(ids_T)
        output = self.target.body(input_ids=ids_T[None], past_key_values=self._cache, use_cache=True)
        hidden_TD: Tensor = output.last_hidden_state[0]
        return hidden_TD


class OneByOne(Reading):
    """A pass for each token, with the target's own kind of cache."""

    at_once = False
    _NAMES = ("past_key_values", "cache_params", "state")

    def __init__(self, target: FrozenTarget) -> None:
        super().__init__(target)
        self._cache: dict[str, Any] = {}

    def keep(self, num_tokens: int) -> None:
        """Nothing: no token was read that is not kept."""

    def _pass(self, ids_T: Tensor) -> Tensor:
        output = self.target.body(input_ids=ids_T[None], use_cache=True, **self._cache)
        self._cache = {name: output[name] for name in self._NAMES if output.get(name) is not None}
        hidden_TD: Tensor = output.last_hidden_state[0]
        return hidden_TD


class Anew(Reading):
    """Everything again in every pass, without a cache."""

    def __init__(self, target: FrozenTarget) -> None:
        super().__init__(target)
        self._ids_T = torch.empty(0, dtype=torch.long, device=target.device)
        self._num_read = 0

    def keep(self, num_tokens: int) -> None:
        self._ids_T = self._ids_T[: len(self._ids_T) - self._num_read + num_tokens]

    def _pass(self, ids_T: Tensor) -> Tensor:
        self._ids_T, self._num_read = torch.cat((self._ids_T, ids_T)), len(ids_T)
        return self.target.hidden_states(self._ids_T[None])[0, -len(ids_T) :]


def reading_of(target: FrozenTarget) -> type[Reading]:
    """The first way of reading, the cheapest first, that gives the hidden states of one pass over the whole text.

    Raises:
        InputError: if none does.
    """
    for way in (CutBack, OneByOne, Anew):
        if _is_right(way, target):
            return way
    raise InputError("target", f"{type(target.model).__name__} gives the same text other hidden states every time")


@torch.inference_mode()
def _is_right(way: type[Reading], target: FrozenTarget) -> bool:
    """Whether a text read in parts, with two tokens taken back, has the hidden states that it has in one pass."""
    num_tokens = sum(_PROBE) - 2
    ids_T = torch.arange(1, num_tokens + 1, device=target.device) * 7 % target.vocab_size
    expected_TD = target.hidden_states(ids_T[None])[0]
    try:
        found_TD = _read_in_parts(way(target), ids_T)
    except Exception:  # of any kind: the cache is not of this target's kind
        return False
    difference = (found_TD - expected_TD).abs().max() / expected_TD.abs().max()
    return bool(difference < _MAX_DIFFERENCE)


def _read_in_parts(reading: Reading, ids_T: Tensor) -> Tensor:
    rows, start = [], 0
    for index, num_read in enumerate(_PROBE):
        num_kept = num_read - 2 if index == 1 else num_read
        part_ids = ids_T[start : start + num_read].clone()
        part_ids[num_kept:] = 0  # other tokens than those that follow
        if index == 0:
            rows += list(reading.begin(part_ids)[0])
        else:
            found = reading.read(part_ids)
            rows += [next(found)[0] for _ in range(num_kept)]
            reading.keep(num_kept)
        start += num_kept
    return torch.stack(rows)
