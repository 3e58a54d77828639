"""What the demos measure: one engine per method, all alive, in turn over the same prompts, pass by pass.

Greedy outputs are compared in a pass of its own, in float32, where they can be compared.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from tqdm import tqdm

from vllm_mtp.benchmarks.harness.engine import EngineError, EngineProcess
from vllm_mtp.benchmarks.harness.engine_args import EngineArgs
from vllm_mtp.benchmarks.harness.method import Method
from vllm_mtp.benchmarks.harness.prompts import BenchmarkPrompt
from vllm_mtp.benchmarks.harness.record import Record, Request
from vllm_mtp.benchmarks.harness.turns import in_turn
from vllm_mtp.common.engine_options import EngineOptions


@dataclass(kw_only=True, slots=True)
class Run:
    """One method and its passes over all prompts, by temperature."""

    method: Method
    passes: dict[float, list[list[Record]]] = field(default_factory=dict)
    exact: list[Record] = field(default_factory=list)
    """Greedy outputs in float32, in which outputs can be compared."""
    missing: str = ""
    """Why nothing could be measured; empty otherwise."""

    def leave_out(self, why: str) -> None:
        self.missing = why
        print(f"   {self.method}: not measured, {why}", flush=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What is measured with which engines."""

    engine: EngineArgs
    methods: Mapping[float, Sequence[Method]]
    """By temperature; the first is no speculation. A baseline that does not run here becomes a row that says why."""
    passes: Mapping[float, int]
    """Passes over all prompts, by temperature; speeds and ratios are medians over passes."""
    max_tokens: int
    """New tokens per prompt; end-of-text does not stop generation, so that every method generates the same number."""
    prompts_per_turn: int
    exact_engines_at_once: int = 0
    """Engines alive together in the pass in float32; 0: all."""


def faster_dtype(target: Path, options: EngineOptions) -> str:
    """The dtype in which both sides are measured: bfloat16 on a GPU, on a CPU what is faster there."""
    from vllm_mtp.training.frozen.target import serving_dtype

    dtype = serving_dtype(str(target), "auto", **options.source())
    return "bfloat16" if dtype == "auto" else dtype


def measure(plan: Plan, prompts: Sequence[BenchmarkPrompt]) -> list[Run]:
    """Measures every method that runs here and compares greedy outputs; tells its steps on standard output."""
    methods = dict.fromkeys(method for methods in plan.methods.values() for method in methods)
    runs = [Run(method=method) for method in methods]
    for run in runs:
        if why := run.method.why_missing():
            run.leave_out(why)
    present = [run for run in runs if not run.missing]
    args = replace(plan.engine, num_engines=len(runs))
    compiled = "eager: no C++ compiler here" if args.enforce_eager else "compiled"
    print(f"2. Start one vLLM engine per method, in {args.dtype}, {compiled}", flush=True)
    # What the first two compile, without and with drafting, the others take from torch's cache.
    with _engines(present[:2], args) as first, _engines(present[2:], args) as others:
        print("3. Measure: batch 1, one prompt after another, the engines in turn", flush=True)
        for temperature in plan.passes:
            _measure(
                plan,
                [one for one in first + others if one[1].method in plan.methods[temperature]],
                prompts,
                temperature,
            )
    print("4. Compare greedy outputs in float32", flush=True)
    _compare(plan, args, [run for run in present if 0.0 in run.passes], prompts)
    return runs


def _measure(
    plan: Plan, engines: list[tuple[EngineProcess, Run]], prompts: Sequence[BenchmarkPrompt], temperature: float
) -> None:
    num_passes = plan.passes[temperature]
    request = Request(prompts=prompts, max_tokens=plan.max_tokens, temperature=temperature)
    for engine, _ in engines:
        engine.warm_up(request)
    with tqdm(
        total=len(engines) * num_passes * len(prompts),
        desc=f"temperature {temperature:g}",
        unit="prompt",
        mininterval=1.0 if sys.stderr.isatty() else 30.0,
    ) as progress:
        found = in_turn(
            [engine for engine, _ in engines],
            request,
            prompts_per_turn=plan.prompts_per_turn,
            num_passes=num_passes,
            on_progress=progress.update,
        )
    for (_, run), passes in zip(engines, found, strict=True):
        run.passes[temperature] = passes


def _compare(plan: Plan, args: EngineArgs, runs: Sequence[Run], prompts: Sequence[BenchmarkPrompt]) -> None:
    if plan.engine.dtype == "float32":
        for run in runs:
            run.exact = run.passes[0.0][-1]
        return
    args = replace(args, dtype="float32", enforce_eager=True, kv_cache_tokens=0)
    request = Request(prompts=prompts, max_tokens=plan.max_tokens, batch_size=len(prompts))
    size = plan.exact_engines_at_once or len(runs)
    for start in range(0, len(runs), size):
        with _engines(runs[start : start + size], args) as engines:
            for engine, run in engines:
                run.exact = engine.measure(request)


@contextmanager
def _engines(runs: Sequence[Run], args: EngineArgs) -> Iterator[list[tuple[EngineProcess, Run]]]:
    """One engine per run, ready; ended on the way out. A baseline that does not start is left out.

    On a CPU they start together; on a GPU one after another, because vLLM takes memory that goes meanwhile for its own.
    """
    import torch

    with ExitStack() as stack:
        ready = []
        for together in [[run] for run in runs] if torch.cuda.is_available() else [runs]:
            logs = [args.variants / f"engine-{run.method.slug}-{args.dtype}.log" for run in together]
            started = [
                stack.enter_context(closing(EngineProcess(args.of(run.method), log)))
                for run, log in zip(together, logs, strict=True)
            ]
            ready += [
                (engine, run) for engine, run in zip(started, together, strict=True) if _is_ready(engine, run, args)
            ]
        yield ready


def _is_ready(engine: EngineProcess, run: Run, args: EngineArgs) -> bool:
    """Waits for an engine; False for a baseline's that ended."""
    try:
        seconds = engine.wait_until_ready()
    except EngineError as error:
        if not run.method.is_baseline:
            raise
        run.leave_out(f"its engine did not start: {str(error).splitlines()[-1]}")
        return False
    print(f"   {run.method}, {args.dtype}: ready after {seconds:.0f} s", flush=True)
    return True
