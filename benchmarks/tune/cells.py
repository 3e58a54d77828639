"""What `vllm-mtp tune` measures, one by one.

One engine measures every K, and on a CPU every module_steps (harness/live.py): starts would take most of the time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from vllm_mtp.benchmarks.harness.method import NONE, OFF, Method, mtp
from vllm_mtp.benchmarks.tune.config import LEAST_TURNS, TuneConfig
from vllm_mtp.contract.lookup import Lookup

ACCEPTANCE, COST, VERIFICATION = "acceptance", "cost", "verification"
HELD_OUT = "held-out"
"""Acceptance of what was chosen, over the prompts that were kept apart."""
CHECK = "check"
"""The cost of what was chosen, timed once more as it was predicted, in turn with its verification."""
SLICE, TURN = 0.5, 8
"""Times `seconds`: a slice, and what a turn of slices comes to for each setting, at least."""
_BETWEEN = 4
"""Settings between two times that no speculation is timed, with which all of them are compared."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One measurement, and a row in the store."""

    kind: str
    method: Method
    """What is measured."""
    engine: Method
    """What the engine was started with."""
    batch_size: int
    turn: int = 0
    in_slices: bool = False
    """Whether its turn is cut up, with those beside it between the slices: all meet the machine in the same moods."""
    beside: Method | None = None
    """What it is measured beside, in the same hour: its row is of no use to another."""

    @property
    def is_fresh(self) -> bool:
        """Whether it is of the verification: on the prompts kept for it, and in a fresh engine where it drafts."""
        return self.kind in (VERIFICATION, HELD_OUT)

    @property
    def is_counted(self) -> bool:
        """Whether it is of acceptance, for which no time counts."""
        return self.kind in (ACCEPTANCE, HELD_OUT)

    @property
    def name(self) -> str:
        """Of its row in the store."""
        beside = f"-beside-{self.beside.slug}" if self.beside else ""
        return f"{self.kind}-{self.method.slug}{beside}-b{self.batch_size}-turn{self.turn}"

    def about(self) -> dict[str, Any]:
        """What its row says of it."""
        return self.method.about() | {"batch_size": self.batch_size, "turn": self.turn}

    def __str__(self) -> str:
        return f"{self.kind}: {self.method}, batch {self.batch_size}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Space:
    """Every setting to choose from."""

    config: TuneConfig
    lookups: Sequence[Lookup | str]
    """Lookup with each of module_steps, and "off"."""

    @property
    def largest_k(self) -> int:
        return max(self.config.num_speculative_tokens)

    def method(self, k: int, lookup: Lookup | str) -> Method:
        """A setting; greedy drafts need no probabilities."""
        return mtp(k, local_argmax=self.config.temperature == 0, lookup=lookup)

    @property
    def methods(self) -> list[Method]:
        """All settings, K = 0 of a schedule among them."""
        return [self.method(k, lookup) for lookup in self.lookups for k in (0, *self._ks)]

    @property
    def _ks(self) -> list[int]:
        return sorted(set(self.config.num_speculative_tokens))

    def measured_as(self, method: Method) -> Method:
        """The setting that drafts the very same: module_steps beyond K change nothing."""
        k, lookup = method.num_speculative_tokens, method.lookup
        if not isinstance(lookup, Lookup) or lookup.module_steps <= max(k, 1):
            return method
        return replace(method, lookup=replace(lookup, module_steps=max(k, 1)))

    def engine_of(self, method: Method) -> Method:
        """What the engine is started with that measures a setting: the largest K, and a schedule with every K."""
        if method == NONE:
            return NONE
        first = next(one for one in self.lookups if (one == OFF) == (method.lookup == OFF))
        # CUDA graphs are captured for the K of a schedule alone.
        schedule = tuple((place, place, k) for place, k in enumerate((0, *self._ks), start=1))
        return replace(self.method(self.largest_k, first), schedule=schedule)

    def cells(self) -> list[Cell]:
        """What predictions need: for each batch size in turns, in each of which all settings are timed one by one.

        No speculation is in a turn several times, since an error of its time is one of all ratios.
        """
        most = max(self.config.batch_size)
        methods = list(dict.fromkeys(map(self.measured_as, self.methods)))
        for place in range(len(methods) // _BETWEEN + 1):
            methods.insert(place * (_BETWEEN + 1), NONE)
        counted = dict.fromkeys(map(self.acceptance_of, self.lookups))
        found = [self._cell(ACCEPTANCE, method, most, 0) for method in counted]
        for size in sorted(set(self.config.batch_size)):
            for turn in range(max(LEAST_TURNS, self.config.turns // 2)):
                ordered = methods if turn % 2 == 0 else methods[::-1]
                found += [self._cell(COST, method, size, turn) for method in ordered]
        return found

    def acceptance_of(self, lookup: Lookup | str) -> Method:
        """The setting whose drafts have those of every K with this lookup in them."""
        return self.measured_as(self.method(self.largest_k, lookup))

    def again(self, methods: Mapping[int, Sequence[Method]], turns: Mapping[int, range]) -> list[Cell]:
        """Few settings at each of some batch sizes, in turn with no speculation.

        Args:
            methods: by batch size.
            turns: by batch size.
        """
        return [
            replace(self._cell(COST, one, size, turn), in_slices=True)
            for size, turn in some_of_each_first(turns)
            for one in _in_turn([NONE, *dict.fromkeys(map(self.measured_as, methods[size]))], turn)
        ]

    def verification(self, method: Method, turns: Mapping[int, range]) -> list[Cell]:
        """A setting in an engine of its own, in turn with no speculation.

        Args:
            method: what is verified.
            turns: by batch size.
        """
        return [
            Cell(kind=VERIFICATION, method=one, engine=one, batch_size=size, turn=turn, in_slices=True, beside=method)
            for size, of_size in turns.items()
            for turn in of_size
            for one in _in_turn([NONE, method], turn)
        ]

    def held_out(self, settings: Mapping[int, Method], method: Method) -> list[Cell]:
        """Acceptance of what is verified, with each of its Ks above 0 once, at the largest batch size that has it.

        Args:
            settings: as for `checks`.
            method: what is verified.
        """
        size_of = {one: size for size, one in sorted(settings.items()) if one.num_speculative_tokens}
        return [
            Cell(kind=HELD_OUT, method=one, engine=method, batch_size=size, beside=method)
            for one, size in size_of.items()
        ]

    def checks(self, method: Method, settings: Mapping[int, Method], turns: Mapping[int, range]) -> list[Cell]:
        """What is verified, as predictions have it measured, in the engine of many settings.

        Args:
            method: what is verified.
            settings: by batch size: what it is there.
            turns: by batch size.
        """
        return [
            replace(self._cell(CHECK, self.measured_as(settings[size]), size, turn), in_slices=True, beside=method)
            for size, of_size in turns.items()
            for turn in of_size
        ]

    @property
    def first_turns(self) -> dict[int, range]:
        """By batch size: what is measured at least."""
        return dict.fromkeys(sorted(set(self.config.batch_size)), range(self.config.turns))

    @property
    def all_turns(self) -> dict[int, range]:
        """By batch size: what is measured at most."""
        most = max(self.config.turns, self.config.most_turns)
        return dict.fromkeys(self.first_turns, range(most))

    def further_turns(self, num_done: Mapping[int, int]) -> dict[int, range]:
        """As many as at first, after those of which there is anything at some batch sizes; none after the most."""
        return {size: self.all_turns[size][done:][: self.config.turns] for size, done in num_done.items()}

    def _cell(self, kind: str, method: Method, batch_size: int, turn: int) -> Cell:
        return Cell(kind=kind, method=method, engine=self.engine_of(method), batch_size=batch_size, turn=turn)


def some_of_each_first(turns: Mapping[int, range]) -> list[tuple[int, int]]:
    """Batch sizes with their turns, a few of every size before more of any: minutes may end."""
    pairs = [(turn // LEAST_TURNS, size, turn) for size, of_size in turns.items() for turn in of_size]
    return [(size, turn) for _, size, turn in sorted(pairs)]


def _in_turn(methods: Sequence[Method], turn: int) -> Sequence[Method]:
    return methods if turn % 2 == 0 else methods[::-1]
