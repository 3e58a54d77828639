"""`vllm-mtp bench round`: which share of a round goes to the target, the drafter, its lookup, vLLM, by vLLM's profiler.

Beside the engine that is profiled stands one of the same kind that is not, and both answer the same prompts in turn:
so that what profiling itself costs is known.
"""

import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vllm_mtp.benchmarks.acceptance import setup as acceptance
from vllm_mtp.benchmarks.harness.engine import EngineError, EngineProcess
from vllm_mtp.benchmarks.harness.engine_args import EngineArgs
from vllm_mtp.benchmarks.harness.method import Method
from vllm_mtp.benchmarks.harness.prompts import BenchmarkPrompt
from vllm_mtp.benchmarks.harness.record import Request
from vllm_mtp.benchmarks.harness.report import write_report
from vllm_mtp.benchmarks.harness.row_store import RowStore, origins_of
from vllm_mtp.benchmarks.rounds.config import RoundConfig
from vllm_mtp.benchmarks.rounds.row import Pass, row_of
from vllm_mtp.benchmarks.rounds.table import plot, table
from vllm_mtp.benchmarks.rounds.trace import read_rounds
from vllm_mtp.common.errors import InputError
from vllm_mtp.common.provenance import hardware, provenance, relative

KIND = "round"
NUM_PASSES = 2
_SCOPES = {"VLLM_CUSTOM_SCOPES_FOR_PROFILING": "1"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Setup:
    """A config made concrete, before any engine is started."""

    config: RoundConfig
    engine: EngineArgs
    output: Path
    prompts: Sequence[BenchmarkPrompt]
    settings: Mapping[str, Any]
    """Everything that decides figures."""

    def request(self, batch_size: int) -> Request:
        """Whole batches of the prompts."""
        config = self.config
        number = max(config.num_prompts, batch_size) // batch_size * batch_size
        return Request(
            prompts=self.prompts[:number],
            max_tokens=config.max_tokens,
            temperature=config.temperature,
            seed=config.seed,
            batch_size=batch_size,
        )


def bench(config: RoundConfig, *, target: str, draft: Path, prompts: Path, output: Path, command: str) -> int:
    """Measures what is not in the output folder yet, then writes results.json, table.md and plot.png.

    Returns:
        0.

    Raises:
        ValueError: for inputs that cannot be used, a folder with rows of other settings, or an engine that ended.
    """
    setup = set_up(config, target=target, draft=draft, prompts=prompts, output=output)
    store = RowStore(output, {KIND: setup.settings})
    for method in config.methods:
        if todo := [size for size in config.batch_size if _name(method, size) not in store]:
            _measure(setup, method, todo, store, provenance(command, config.seed))
    rows = [store.load(_name(method, size)) for size in config.batch_size for method in config.methods]
    about = {"kind": KIND, "target": relative(target), "draft": relative(str(draft)), "settings": setup.settings}
    print(write_report(about | {"origins": origins_of(rows), "rows": rows}, output, table, plot))
    return 0


def set_up(config: RoundConfig, *, target: str, draft: Path, prompts: Path, output: Path) -> Setup:
    """Reads target, drafter and prompts.

    Raises:
        ValueError: for a target, drafter or prompt file that cannot be used, and for a GPU.
    """
    import torch

    if torch.cuda.is_available():
        raise ValueError(
            "expected a CPU: on a GPU the scopes of a profile tell when work was asked for, not how long it took; "
            "serve with --profiler-config and look at the trace"
        )
    made = acceptance.set_up(config.as_acceptance(), target=target, draft=draft, prompts=prompts, output=output)
    wanted, found = max(config.num_prompts, *config.batch_size), made.prompts
    if len(found) < wanted:
        raise InputError("prompts", f"expected at least {wanted} that leave room in the context, got {len(found)}")
    chosen = found[:: len(found) // wanted][:wanted]
    own = {"num_prompts": config.num_prompts, "temperature": config.temperature, "hardware": hardware()}
    return Setup(
        config=config,
        engine=made.engine,
        output=output,
        prompts=chosen,
        settings=made.settings()["acceptance"] | own,
    )


def _name(method: Method, batch_size: int) -> str:
    return f"{KIND}-{method.slug}-b{batch_size}"


def _measure(setup: Setup, method: Method, todo: Sequence[int], store: RowStore, made_with: Mapping[str, Any]) -> None:
    traces = setup.output.resolve() / "traces"
    arguments, log = setup.engine.of(method), setup.output / f"engine-{method.slug}.log"
    profiler = {"profiler": "torch", "torch_profiler_dir": str(traces), "torch_profiler_with_stack": False}
    try:
        with (
            EngineProcess(arguments, log) as plain,
            EngineProcess(
                arguments | {"profiler_config": profiler}, log.with_stem(f"{log.stem}-profiled"), _SCOPES
            ) as profiled,
        ):
            for size in todo:
                print(f"{method}, batch {size}", file=sys.stderr)
                shutil.rmtree(traces, ignore_errors=True)
                passes = _in_turn(plain, profiled, setup.request(size))
                about = method.about() | {"batch_size": size, "made_with": made_with}
                store.save(_name(method, size), KIND, about | row_of(passes, read_rounds(traces)))
    except EngineError as error:
        raise ValueError(f"the engine of {method} ended; its log is {error.log}") from error
    shutil.rmtree(traces)


def _in_turn(plain: EngineProcess, profiled: EngineProcess, request: Request) -> list[Pass]:
    """Both engines answer the request, the other one first at every other pass."""
    engines = (plain, profiled)
    for engine in engines:
        engine.warm_up(request)
    found: list[Pass] = []
    for number in range(NUM_PASSES):
        records = {
            engine: engine.measure(replace(request, is_profiled=engine is profiled))
            for engine in (engines[::-1] if number % 2 else engines)
        }
        found.append((records[plain], records[profiled]))
    return found
