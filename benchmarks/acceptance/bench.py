"""`vllm-mtp bench acceptance`: acceptance and speed of a drafter in vLLM, by task, and of its rivals.

Acceptance is counted over whole batches, as vLLM reports it for each prompt; where a vLLM has no such report, prompts
run one by one and the engine's counters are read between them. Speed is measured against an engine without speculation
that works on the same prompts in turn, so that a machine that changes its speed changes it for both. Each method has
such an engine of its own, since some processes are slower than others all their life, or several pairs of engines, one
after another. Every row is written when it is done, and not measured again by the same command.
"""

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vllm_mtp.benchmarks.acceptance.config import AcceptanceConfig
from vllm_mtp.benchmarks.acceptance.report import report
from vllm_mtp.benchmarks.acceptance.setup import Setup, set_up
from vllm_mtp.benchmarks.harness.engine import EngineError, EngineProcess, Result
from vllm_mtp.benchmarks.harness.method import NONE, Method
from vllm_mtp.benchmarks.harness.prompts import BenchmarkPrompt, limited
from vllm_mtp.benchmarks.harness.row_store import RowStore
from vllm_mtp.common.provenance import provenance


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One row of the table, to be measured or in the store."""

    kind: str
    """"acceptance" or "speed"."""
    method: Method
    temperature: float
    batch_size: int = 0
    """Of a speed row."""
    pair: int = 1
    """Which pair of engines a speed row is of: the table joins the rows of all pairs."""

    @property
    def name(self) -> str:
        name = f"{self.kind}-{self.method.slug}-t{self.temperature:g}"
        name = f"{name}-b{self.batch_size}" if self.kind == "speed" else name
        return f"{name}-pair{self.pair}" if self.pair > 1 else name

    def about(self) -> dict[str, Any]:
        """What says in its file which row it is."""
        return {
            **self.method.about(),
            "temperature": self.temperature,
            "batch_size": self.batch_size,
            **({"pair": self.pair} if self.pair > 1 else {}),
        }

    def __str__(self) -> str:
        what = f"{self.method}, temperature {self.temperature:g}"
        what = f"{what}, batch {self.batch_size}" if self.kind == "speed" else what
        return f"{what}, pair {self.pair}" if self.pair > 1 else what


def bench(
    config: AcceptanceConfig, *, target: str, draft: Path, prompts: Path, output: Path, argv: Sequence[str]
) -> int:
    """Measures what is not in the output folder yet, then writes results.json, table.md and acceptance.png.

    Returns:
        0.

    Raises:
        ValueError: for inputs that cannot be used, a folder with rows of other settings, or an engine that ended.
    """
    setup = set_up(config, target=target, draft=draft, prompts=prompts, output=output)
    store = RowStore(output, setup.settings())
    rows = rows_of(config)
    stored = {row.name for row in rows if row.name in store}
    todo, missing = rows_to_do(rows, stored)
    print(
        f"{len(setup.prompts)} prompts ({setup.num_left_out} too long), {setup.dtype}, "
        f"{len(todo)} rows to measure, {len(stored)} taken from {output}",
        file=sys.stderr,
    )
    if todo:
        total = sum(len(prompts_of(row, setup)) * (2 if row.kind == "speed" else 1) for row in todo)
        with tqdm(total=total, unit="prompt", mininterval=1.0 if sys.stderr.isatty() else 10.0) as progress:
            missing |= measure(setup, store, todo, provenance(" ".join(argv), config.seed), progress)
    print(report(setup, store, missing))
    return 0


def rows_of(config: AcceptanceConfig) -> list[Row]:
    """Every row that a config asks for, in the order of measuring, the greedy reference first."""
    rows = [Row(kind="acceptance", method=NONE, temperature=0.0)] if 0 in config.temperature else []
    for method in config.methods:
        rows += [Row(kind="acceptance", method=method, temperature=t) for t in config.temperature]
        if config.speed_prompts_per_task:
            rows += [
                Row(kind="speed", method=config.speed_method(method, t), temperature=t, batch_size=size, pair=pair)
                for pair in range(1, config.speed_pairs + 1)
                for t in config.temperature
                for size in config.speed_batch
            ]
    return rows


def rows_to_do(rows: Sequence[Row], stored: Set[str]) -> tuple[list[Row], dict[str, str]]:
    """Rows that are not stored and can be measured here; of the methods that cannot, why."""
    todo = [row for row in rows if row.name not in stored]
    missing = {str(row.method): why for row in todo if (why := row.method.why_missing())}
    return [row for row in todo if str(row.method) not in missing], missing


def prompts_of(row: Row, setup: Setup) -> list[BenchmarkPrompt]:
    """The prompts that a row is measured on."""
    return limited(setup.prompts, setup.config.speed_prompts_per_task if row.kind == "speed" else None)


def measure(
    setup: Setup, store: RowStore, todo: Sequence[Row], made_with: Mapping[str, Any], progress: Any
) -> dict[str, str]:
    """Measures and stores rows. At most two engines are alive: the method's, and one without where speed is measured.

    Returns:
        Why rows of some rivals are missing, by method: their engines ended.
    """
    missing: dict[str, str] = {}
    for rows in _by_engine(todo):
        method = rows[0].method
        speed = any(row.kind == "speed" for row in rows)
        try:
            with _engine(setup, NONE) if speed else nullcontext() as baseline, _engine(setup, method) as engine:
                for row in rows:
                    progress.set_description(str(row))
                    if row.kind == "speed":
                        assert baseline is not None
                        content = _measure_speed(setup, row, engine, baseline, progress.update)
                    else:
                        content = _measure_acceptance(setup, row, engine, progress.update)
                    store.save(row.name, row.kind, row.about() | {"made_with": made_with} | content)
        except EngineError as error:
            ended = method if error.log == _log(setup, method) else NONE
            if not ended.is_rival:
                print(f"\n{error}", file=sys.stderr)
                raise ValueError(f"the engine of {ended} ended; its log is {error.log}") from error
            missing[str(method)] = f"its engine ended: {str(error).splitlines()[-1]}"
    return missing


def _by_engine(todo: Sequence[Row]) -> list[list[Row]]:
    """Rows that one engine serves: of a method and pair all, or one each where a method remembers what it generated."""
    groups = []
    for method, pair in dict.fromkeys((row.method, row.pair) for row in todo):
        rows = [row for row in todo if (row.method, row.pair) == (method, pair)]
        groups += [[row] for row in rows] if method.remembers else [rows]
    return groups


@contextmanager
def _engine(setup: Setup, method: Method) -> Iterator[EngineProcess]:
    engine = EngineProcess(setup.engine_args(method), _log(setup, method), setup.environment())
    try:
        engine.wait_until_ready()
        yield engine
    finally:
        engine.close()


def _log(setup: Setup, method: Method) -> Path:
    return setup.output / f"engine-{method.slug}.log"


def _measure_acceptance(
    setup: Setup, row: Row, engine: EngineProcess, on_progress: Callable[[int], object]
) -> dict[str, Any]:
    start = time.perf_counter()
    one_by_one = row.method != NONE and not engine.per_request_metrics
    results = engine.measure(
        [prompt.token_ids for prompt in setup.prompts],
        max_tokens=setup.config.max_tokens,
        temperature=row.temperature,
        seed=setup.config.seed,
        ignore_eos=False,
        batch_size=1 if one_by_one else len(setup.prompts),
        on_progress=on_progress,
    )
    return {
        "seconds": round(time.perf_counter() - start, 1),
        "peak_memory_mib": engine.peak_memory_mib(),
        "records": _records(setup.prompts, results),
    }


def _measure_speed(
    setup: Setup, row: Row, engine: EngineProcess, baseline: EngineProcess, on_progress: Callable[[int], object]
) -> dict[str, Any]:
    """Both engines generate for the same prompts, batch by batch, each of them first every other time."""
    prompts, size = prompts_of(row, setup), row.batch_size
    results: dict[EngineProcess, list[Result]] = {engine: [], baseline: []}
    for one in results:
        one.warm_up([prompt.token_ids for prompt in prompts], temperature=row.temperature, batch_size=size)
    for number, start in enumerate(range(0, len(prompts), size)):
        batch = [prompt.token_ids for prompt in prompts[start : start + size]]
        for one in results if number % 2 else reversed(results):
            results[one] += one.measure(
                batch,
                max_tokens=setup.config.max_tokens,
                temperature=row.temperature,
                seed=setup.config.seed + start,
                batch_size=size,
                on_progress=on_progress,
            )
    return {"records": _records(prompts, results[engine]), "baseline": _records(prompts, results[baseline])}


def _records(prompts: Sequence[BenchmarkPrompt], results: Sequence[Result]) -> list[dict[str, Any]]:
    return [
        {
            "number": prompt.number,
            "category": prompt.category,
            "task": prompt.task,
            "num_prompt_tokens": len(prompt.token_ids),
            **result,
        }
        for prompt, result in zip(prompts, results, strict=True)
    ]
