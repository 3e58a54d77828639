"""`vllm-mtp bench acceptance`: acceptance and speed of a drafter in vLLM, by task, and of baselines.

Acceptance is counted over whole batches, as vLLM reports it for each prompt; where a vLLM has no such report, prompts
run one by one and the engine's counters are read between them. Speed is measured against an engine without speculation
that works on the same prompts in turn, so that a machine that changes its speed changes it for both. Each method has
such an engine of its own, since some processes are slower than others all their life, or several pairs of engines, one
after another. Every row is written when it is done, and not measured again by the same command.
"""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vllm_mtp.benchmarks.acceptance.config import AcceptanceConfig
from vllm_mtp.benchmarks.acceptance.later_turns import with_later_turns
from vllm_mtp.benchmarks.acceptance.measurement import SPEED, Measurement, by_engine, measurements_of, still_to_do
from vllm_mtp.benchmarks.acceptance.plot import plot
from vllm_mtp.benchmarks.acceptance.report import result_of
from vllm_mtp.benchmarks.acceptance.setup import Setup, set_up
from vllm_mtp.benchmarks.acceptance.table import table
from vllm_mtp.benchmarks.harness.engine import EngineError, EngineProcess
from vllm_mtp.benchmarks.harness.method import NONE, Method
from vllm_mtp.benchmarks.harness.prompts import BenchmarkPrompt, limited
from vllm_mtp.benchmarks.harness.record import Request
from vllm_mtp.benchmarks.harness.report import write_report
from vllm_mtp.benchmarks.harness.row_store import RowStore
from vllm_mtp.benchmarks.harness.turns import in_turn
from vllm_mtp.common.provenance import provenance

OnProgress = Callable[[int], object]


def bench(config: AcceptanceConfig, *, target: str, draft: Path, prompts: Path, output: Path, command: str) -> int:
    """Measures what is not in the output folder yet, then writes results.json, table.md and plot.png.

    Returns:
        0.

    Raises:
        ValueError: for inputs that cannot be used, a folder with rows of other settings, or an engine that ended.
    """
    setup = set_up(config, target=target, draft=draft, prompts=prompts, output=output)
    made_with = provenance(command, config.seed)
    try:
        setup = with_later_turns(setup, output, made_with, partial(_engine, method=NONE))
    except EngineError as error:
        raise _ended(NONE, error) from error
    store = RowStore(output, setup.settings())
    wanted = measurements_of(config)
    stored = {one.name for one in wanted if one.name in store}
    todo, missing = still_to_do(wanted, stored)
    print(
        f"{len(setup.prompts)} prompts ({setup.num_left_out} too long), {setup.engine.dtype}, "
        f"{len(todo)} rows to measure, {len(stored)} taken from {output}",
        file=sys.stderr,
    )

    def write(draw: Any = None) -> str:
        return write_report(result_of(setup, store, missing), output, table, draw)

    if todo:
        total = sum(len(prompts_of(one, setup)) * (2 if one.kind == SPEED else 1) for one in todo)
        with tqdm(total=total, unit="prompt", mininterval=1.0 if sys.stderr.isatty() else 10.0) as progress:
            missing |= measure(setup, store, todo, made_with, progress, write)
    print(write(plot))
    return 0


def prompts_of(one: Measurement, setup: Setup) -> list[BenchmarkPrompt]:
    """The prompts that are measured on."""
    return limited(setup.prompts, setup.config.speed_prompts_per_task if one.kind == SPEED else None)


def measure(
    setup: Setup,
    store: RowStore,
    todo: Sequence[Measurement],
    made_with: Mapping[str, Any],
    progress: Any,
    write: Callable[[], object],
) -> dict[str, str]:
    """Measures and stores. At most two engines are alive: the method's, and one without where speed is measured.

    Args:
        setup, store, todo, made_with, progress: what is measured, where it goes, and what shows it.
        write: called when an engine has done its rows: a run that is cut short leaves the tables of what it has.

    Returns:
        Why rows of some baselines are missing, by method: their engines ended.
    """
    missing: dict[str, str] = {}
    for group in by_engine(todo):
        method = group[0].method
        speed = any(one.kind == SPEED for one in group)
        try:
            with _engine(setup, NONE) if speed else nullcontext() as plain, _engine(setup, method) as engine:
                for one in group:
                    progress.set_description(str(one))
                    if one.kind == SPEED:
                        assert plain is not None
                        content = _measure_speed(setup, one, engine, plain, progress.update)
                    else:
                        content = _measure_acceptance(setup, one, engine, progress.update)
                    store.save(one.name, one.kind, one.about() | {"made_with": made_with} | content)
        except EngineError as error:
            ended = method if error.log == _log(setup, method) else NONE
            if not ended.is_baseline:
                raise _ended(ended, error) from error
            missing[str(method)] = f"its engine ended: {str(error).splitlines()[-1]}"
        else:
            write()
    return missing


def _ended(method: Method, error: EngineError) -> ValueError:
    print(f"\n{error}", file=sys.stderr)
    return ValueError(f"the engine of {method} ended; its log is {error.log}")


def _engine(setup: Setup, method: Method) -> EngineProcess:
    return EngineProcess(setup.engine.of(method), _log(setup, method), setup.environment())


def _log(setup: Setup, method: Method) -> Path:
    return setup.engine.variants / f"engine-{method.slug}.log"


def _request(setup: Setup, one: Measurement, prompts: Sequence[BenchmarkPrompt]) -> Request:
    config = setup.config
    return Request(
        prompts=prompts,
        max_tokens=config.max_tokens,
        temperature=one.temperature,
        seed=config.seed,
        **config.sampling(),
    )


def _measure_acceptance(
    setup: Setup, one: Measurement, engine: EngineProcess, on_progress: OnProgress
) -> dict[str, Any]:
    start = time.perf_counter()
    one_by_one = one.method != NONE and not engine.per_request_metrics
    size = 1 if one_by_one else len(setup.prompts)
    request = replace(_request(setup, one, setup.prompts), ignore_eos=False, batch_size=size)
    records = engine.measure(request, on_progress)
    return {
        "seconds": round(time.perf_counter() - start, 1),
        "peak_memory_mib": engine.peak_memory_mib,
        "records": [asdict(record) for record in records],
    }


def _measure_speed(
    setup: Setup, one: Measurement, engine: EngineProcess, plain: EngineProcess, on_progress: OnProgress
) -> dict[str, Any]:
    """Both engines generate for the same prompts, batch by batch."""
    request = replace(_request(setup, one, prompts_of(one, setup)), batch_size=one.batch_size)
    for each in (engine, plain):
        each.warm_up(request)
    [without], [drafted] = in_turn([plain, engine], request, prompts_per_turn=one.batch_size, on_progress=on_progress)
    return {"records": [asdict(record) for record in drafted], "baseline": [asdict(record) for record in without]}
