"""Measures cells and stores their rows.

On a CPU all engines are alive and work in turn, since the speed of such a machine drifts, and jumps within a second
where others have a share of it: what is compared closely is timed in slices of some rounds, there and back. A GPU is
one engine's alone: two of a large target do not fit there, and its speed does not drift as much; so one engine after
another does all that it can measure.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict
from itertools import count, groupby
from typing import Any

from tqdm import tqdm

from vllm_mtp.benchmarks.harness.engine import EngineError, EngineProcess
from vllm_mtp.benchmarks.harness.method import NONE, Method
from vllm_mtp.benchmarks.harness.rounds import Rounds, RoundsRequest
from vllm_mtp.benchmarks.harness.row_store import RowStore
from vllm_mtp.benchmarks.tune.cells import SLICE, TURN, Cell
from vllm_mtp.benchmarks.tune.config import LEAST_TURNS
from vllm_mtp.benchmarks.tune.setup import Setup
from vllm_mtp.contract.lookup import Lookup

_MOST_SLICES = 1000
"""Numbers of slices stay below: each draws with a seed of its own."""


class Meter(ExitStack):
    """Measures the cells that are not stored yet, when called; its engines stay for the next call.

    Args:
        setup: of the command.
        store: for rows.
        made_with: where rows come from.
    """

    def __init__(self, setup: Setup, store: RowStore, made_with: Mapping[str, Any]) -> None:
        super().__init__()
        self.setup, self.store, self.made_with = setup, store, made_with
        self._engines: dict[_Key, EngineProcess] = {}

    def __call__(self, cells: Sequence[Cell], is_late: Callable[[], bool]) -> bool:
        """Measures in this order; on a GPU what one engine can measure comes before the next one's.

        Args:
            cells: those of a turn behind each other; one that is there several times has so many shares of it.
            is_late: whether turns after the second are left out from now on.

        Returns:
            Whether anything was measured.

        Raises:
            ValueError: for an engine that ended; its log is named.
        """
        late, num_stored = is_late(), 0
        todo = [cell for cell in cells if cell.name not in self.store and (cell.turn < LEAST_TURNS or not late)]
        engines = sorted(dict.fromkeys(map(_key, todo)), key=lambda key: key not in self._engines)
        together = [engines] if self.setup.on_cpu and engines else [[one] for one in engines]
        with tqdm(total=len(todo), unit="cell", mininterval=1.0 if sys.stderr.isatty() else 10.0) as progress:
            try:
                for some in together:
                    progress.set_description(f"starting {len(some)} of {len(engines)} engines")
                    self._start(some)
                    for turn in _turns([cell for cell in todo if _key(cell) in some]):
                        progress.set_description(str(turn[-1]), refresh=False)
                        if turn[0].turn < LEAST_TURNS or not is_late():
                            self._measure(turn)
                            num_stored += len(turn)
                        progress.update(len(turn))
            except EngineError as error:
                print(f"\n{error}", file=sys.stderr)
                raise ValueError(f"an engine ended; its log is {error.log}") from error
        return num_stored > 0

    def _start(self, keys: Sequence["_Key"]) -> None:
        """Those that are not alive, all at once, in place of what is alive and not among them."""
        missing = [key for key in keys if key not in self._engines]
        for key in [key for key in self._engines if missing and key not in keys]:
            self._engines.pop(key).close()
        started = {key: self.enter_context(closing(_started(self.setup, key))) for key in missing}
        for engine in started.values():
            engine.wait_until_ready()
        self._engines |= started

    def _measure(self, cells: Sequence[Cell]) -> None:
        """A turn: all of its cells one by one; in slices there and back again, until each has had its seconds."""
        slices: dict[Cell, list[Rounds]] = {cell: [] for cell in cells}
        for number in count():
            for cell in cells if number % 2 == 0 else cells[::-1]:
                engine = self._engines[_key(cell)]
                slices[cell].append(engine.measure_rounds(request_of(self.setup, cell, number)))
            least = min(sum(sum(one.seconds) for one in some) for some in slices.values())
            is_back = number % 2 == 1
            if not cells[0].in_slices or (is_back and least >= TURN * self.setup.config.seconds):
                break
        for cell, some in slices.items():
            row = cell.about() | {"made_with": self.made_with} | asdict(_joined(some))
            self.store.save(cell.name, cell.kind, row)


def _turns(cells: Sequence[Cell]) -> list[list[Cell]]:
    """What is measured together, and stored when all of it is there: cells of the same turn."""

    def turn_of(cell: Cell) -> object:
        return cell if cell.is_counted else (cell.batch_size, cell.turn)

    return [list(some) for _, some in groupby(cells, key=turn_of)]


def _joined(some: Sequence[Rounds]) -> Rounds:
    return Rounds(
        seconds=[seconds for one in some for seconds in one.seconds],
        tokens=[tokens for one in some for tokens in one.tokens],
        outputs=[output for one in some for output in one.outputs],
    )


def request_of(setup: Setup, cell: Cell, number: int = 0) -> RoundsRequest:
    """What the engine is asked for in a cell, or in a slice of it, from 0."""
    config, method = setup.config, cell.method
    is_live = cell.engine != cell.method
    steps = method.lookup.module_steps if isinstance(method.lookup, Lookup) else None
    return RoundsRequest(
        prompts=setup.held_out if cell.is_fresh else setup.measured,
        batch_size=cell.batch_size,
        max_tokens=config.max_tokens,
        temperature=config.temperature,
        top_p=config.top_p,
        top_k=config.top_k,
        seed=config.seed + cell.turn * _MOST_SLICES + number,
        repeat=not cell.is_counted,
        keep=not cell.is_counted,
        max_seconds=None if cell.is_counted else config.seconds * (SLICE if cell.in_slices else 1),
        num_speculative_tokens=method.num_speculative_tokens if is_live else None,
        module_steps=steps if is_live and setup.on_cpu else None,
    )


_Key = tuple[bool, Method]
"""Whether it is the fresh engine of the verification, which shares the plain one; and what it was started with."""


def _key(cell: Cell) -> _Key:
    return cell.is_fresh and cell.method != NONE, cell.engine


def _started(setup: Setup, key: _Key) -> EngineProcess:
    is_fresh, method = key
    log = f"engine-{method.slug}{'-verification' if is_fresh else ''}.log"
    return EngineProcess(setup.engine.of(method), setup.engine.variants / log, setup.environment)
