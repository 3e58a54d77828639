"""Measures cells and stores their rows.

On a CPU all engines are alive and work in turn, since the speed of such a machine drifts. A GPU is one engine's alone:
two of a large target do not fit there, and its speed does not drift as much; so one engine after another does all that
it can measure.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict
from typing import Any

from tqdm import tqdm

from vllm_mtp.benchmarks.harness.engine import EngineError, EngineProcess
from vllm_mtp.benchmarks.harness.method import NONE, Method
from vllm_mtp.benchmarks.harness.rounds import RoundsRequest
from vllm_mtp.benchmarks.harness.row_store import RowStore
from vllm_mtp.benchmarks.tune.cells import ACCEPTANCE, CHECK, COST, VERIFICATION, Cell
from vllm_mtp.benchmarks.tune.config import LEAST_TURNS
from vllm_mtp.benchmarks.tune.setup import Setup
from vllm_mtp.contract.lookup import Lookup

_LEAST_OUTPUTS = 3
"""Complete ones in a turn of the verification."""
_BESIDE = 4
"""Times `seconds`: a turn of what is timed beside those outputs, which take seconds too."""


class Meter(ExitStack):
    """Measures the cells that are not stored yet, when called; its engines stay for the next call.

    Args:
        setup: of the command.
        store: for rows.
        made_with: where rows come from.
        is_late: whether turns after the second are left out from now on.
    """

    def __init__(
        self, setup: Setup, store: RowStore, made_with: Mapping[str, Any], is_late: Callable[[], bool]
    ) -> None:
        super().__init__()
        self.setup, self.store, self.made_with, self.is_late = setup, store, made_with, is_late
        self._engines: dict[_Key, EngineProcess] = {}

    def __call__(self, cells: Sequence[Cell]) -> bool:
        """Measures in this order; on a GPU what one engine can measure comes before the next one's.

        Returns:
            Whether anything was measured.

        Raises:
            ValueError: for an engine that ended; its log is named.
        """
        todo, num_stored = [cell for cell in cells if cell.name not in self.store], 0
        engines = list(dict.fromkeys(map(_key, todo)))
        together = [engines] if self.setup.on_cpu and engines else [[one] for one in engines]
        with tqdm(total=len(todo), unit="cell", mininterval=1.0 if sys.stderr.isatty() else 10.0) as progress:
            try:
                for some in together:
                    progress.set_description(f"starting {len(some)} of {len(engines)} engines")
                    self._start(some)
                    for cell in (cell for cell in todo if _key(cell) in some):
                        progress.set_description(str(cell), refresh=False)
                        num_stored += self._measure(cell)
                        progress.update()
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

    def _measure(self, cell: Cell) -> bool:
        """Whether there was time for it."""
        if cell.turn >= LEAST_TURNS and self.is_late():
            return False
        rounds = self._engines[_key(cell)].measure_rounds(request_of(self.setup, cell))
        self.store.save(cell.name, cell.kind, cell.about() | {"made_with": self.made_with} | asdict(rounds))
        return True


def request_of(setup: Setup, cell: Cell) -> RoundsRequest:
    """What the engine is asked for in a cell."""
    config, method = setup.config, cell.method
    prompts = setup.held_out if cell.kind == VERIFICATION else setup.measured
    is_live = cell.engine != cell.method
    steps = method.lookup.module_steps if isinstance(method.lookup, Lookup) else None
    is_counted = cell.kind == ACCEPTANCE
    timed = cell.kind in (COST, CHECK) or method == NONE
    return RoundsRequest(
        prompts=prompts,
        batch_size=cell.batch_size,
        max_tokens=config.max_tokens,
        temperature=config.temperature,
        top_p=config.top_p,
        top_k=config.top_k,
        seed=config.seed + cell.turn,
        repeat=not is_counted,
        keep=not is_counted,
        max_seconds=config.seconds * (_BESIDE if cell.beside else 1) if timed else None,
        max_outputs=None if timed or is_counted else max(cell.batch_size // 2, _LEAST_OUTPUTS),
        num_speculative_tokens=method.num_speculative_tokens if is_live else None,
        module_steps=steps if is_live and setup.on_cpu else None,
    )


_Key = tuple[bool, Method]
"""Whether an engine is of the verification alone, and what it was started with."""


def _key(cell: Cell) -> _Key:
    return cell.kind == VERIFICATION, cell.engine


def _started(setup: Setup, key: _Key) -> EngineProcess:
    is_fresh, method = key
    log = f"engine-{method.slug}{'-verification' if is_fresh else ''}.log"
    return EngineProcess(setup.engine.of(method), setup.engine.variants / log, setup.environment)
