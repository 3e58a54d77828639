"""What the demos measure: one engine per method, all alive, in turn over the same prompts, pass by pass.

Greedy outputs are compared in a pass of its own, in float32, where they can be compared.
"""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vllm_mtp.benchmarks.harness.draft_folder import draft_folder
from vllm_mtp.benchmarks.harness.engine import EngineError, EngineProcess, Result
from vllm_mtp.benchmarks.harness.method import Method

Pass = list[Result]
TokenIds = Sequence[int]
_BLOCK_SIZE = 128


@dataclass(kw_only=True, slots=True)
class Run:
    """One method and its passes over all prompts, by temperature."""

    method: Method
    passes: dict[float, list[Pass]] = field(default_factory=dict)
    exact_outputs: list[list[int]] = field(default_factory=list)
    """Greedy token ids in float32, in which outputs can be compared."""
    missing: str = ""
    """Why nothing could be measured; empty otherwise."""

    def speeds(self, temperature: float) -> list[float]:
        """Output tokens per second of each pass."""
        return [
            sum(len(result["token_ids"]) for result in one) / sum(result["seconds"] for result in one)
            for one in self.passes[temperature]
        ]


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What is measured with which engines."""

    target: Path
    draft: Path
    logs: Path
    """Folder for the engines' logs and for variants of the drafter."""
    methods: Mapping[float, Sequence[Method]]
    """By temperature; the first is no speculation, the baseline. A rival that does not run here becomes a row that says
    why."""
    passes: Mapping[float, int]
    """Passes over all prompts, by temperature; speeds and ratios are medians over passes."""
    max_tokens: int
    """New tokens per prompt; end-of-text does not stop generation, so that every method generates the same number."""
    max_model_len: int
    dtype: str
    enforce_eager: bool
    prompts_per_turn: int = 0
    """Prompts after which the next engine has its turn; 0: all of them."""
    prefix_caching: bool = True
    """Off: no pass finds its prompts already read by the one before."""
    kv_cache_tokens: int = 0
    """Tokens for which an engine on a CPU has room when it is timed; 0: as many as fit into its 1 GiB."""
    exact_engines_at_once: int = 0
    """Engines alive together in the pass in float32; 0: all."""

    @property
    def engines(self) -> list[Method]:
        """One for each method, whatever the temperature."""
        return list(dict.fromkeys(method for methods in self.methods.values() for method in methods))

    def engine_args(
        self, method: Method, *, dtype: str, enforce_eager: bool, timed: bool, num_engines: int
    ) -> dict[str, Any]:
        """For `vllm.LLM`, of which num_engines share a GPU; makes the drafter's variant that a method needs."""
        import torch

        arguments: dict[str, Any] = {
            "model": str(self.target),
            "max_model_len": self.max_model_len,
            "max_num_seqs": 32,
            "seed": 0,
            "dtype": dtype,
            "enforce_eager": enforce_eager,
            "generation_config": "vllm",
            "enable_prefix_caching": self.prefix_caching,
        }
        if torch.cuda.is_available():
            arguments["gpu_memory_utilization"] = round(0.85 / num_engines, 2)
        elif self.kv_cache_tokens and timed:
            blocks = math.ceil(self.kv_cache_tokens / _BLOCK_SIZE)
            arguments |= {"block_size": _BLOCK_SIZE, "num_gpu_blocks_override": blocks}
        speculative = method.speculative_config(draft_folder(method, self.draft, self.logs))
        return arguments if speculative is None else arguments | {"speculative_config": speculative}


def faster_dtype(target: Path) -> str:
    """The dtype in which both sides are measured: bfloat16 on a GPU, on a CPU what is faster there."""
    from vllm_mtp.training.target.frozen import serving_dtype

    dtype = serving_dtype(str(target), "auto")
    return "bfloat16" if dtype == "auto" else dtype


def measure(plan: Plan, prompts: Sequence[TokenIds]) -> list[Run]:
    """Measures every method that runs here and compares greedy outputs; tells its steps on standard output."""
    runs = [Run(method=method, missing=method.why_missing()) for method in plan.engines]
    present = [run for run in runs if not run.missing]
    for run in runs:
        if run.missing:
            print(f"   {run.method}: not measured, {run.missing}", flush=True)
    # What the first two compile, without and with drafting, the others take from torch's cache.
    with _engines(present[:2], plan, timed=True) as first, _engines(present[2:], plan, timed=True) as others:
        engines = first + others
        print("3. Measure: batch 1, one prompt after another, the engines in turn", flush=True)
        for temperature, num_passes in plan.passes.items():
            taking_part = [(engine, run) for engine, run in engines if run.method in plan.methods[temperature]]
            for engine, _ in taking_part:
                engine.warm_up(prompts, temperature=temperature)
            for number in range(num_passes):
                _one_pass(plan, taking_part, prompts, temperature, seed=1000 * number)
                print(f"   temperature {temperature:g}: pass {number + 1} of {num_passes}", flush=True)
    print("4. Compare greedy outputs in float32", flush=True)
    _compare(plan, [run for run in present if not run.missing and run.method in plan.methods[0.0]], prompts)
    return runs


def _one_pass(
    plan: Plan,
    engines: Sequence[tuple[EngineProcess, Run]],
    prompts: Sequence[TokenIds],
    temperature: float,
    seed: int,
) -> None:
    size = plan.prompts_per_turn or len(prompts)
    results: list[Pass] = [[] for _ in engines]
    start = told = time.monotonic()
    for first in range(0, len(prompts), size):
        for (engine, _), of_engine in zip(engines, results, strict=True):
            of_engine += engine.measure(
                prompts[first : first + size], max_tokens=plan.max_tokens, temperature=temperature, seed=seed + first
            )
        now, num_done = time.monotonic(), min(first + size, len(prompts))
        if now - told > 30 and num_done < len(prompts):
            told, left = now, (now - start) * (len(prompts) / num_done - 1)
            print(
                f"   temperature {temperature:g}: {num_done} of {len(prompts)} prompts, {left:.0f} s left", flush=True
            )
    for (_, run), of_engine in zip(engines, results, strict=True):
        run.passes.setdefault(temperature, []).append(of_engine)


def _compare(plan: Plan, runs: Sequence[Run], prompts: Sequence[TokenIds]) -> None:
    if plan.dtype == "float32":
        for run in runs:
            run.exact_outputs = [result["token_ids"] for result in run.passes[0.0][-1]]
        return
    size = plan.exact_engines_at_once or len(runs)
    for start in range(0, len(runs), size):
        some = runs[start : start + size]
        with _engines(some, plan, timed=False) as engines:
            for engine, run in engines:
                run.exact_outputs = engine.generate(prompts, max_tokens=plan.max_tokens)


@contextmanager
def _engines(runs: Sequence[Run], plan: Plan, *, timed: bool) -> Iterator[list[tuple[EngineProcess, Run]]]:
    """One engine per run, ready; ended on the way out. A rival that does not start is left out.

    Timed they are as the plan says, otherwise eager and in float32. On a CPU they start together; on a GPU one after
    another, because vLLM takes memory that goes meanwhile for its own.
    """
    import torch

    dtype, enforce_eager = (plan.dtype, plan.enforce_eager) if timed else ("float32", True)
    engines: list[tuple[EngineProcess, Run]] = []
    ready: list[tuple[EngineProcess, Run]] = []
    try:
        for together in [[run] for run in runs] if torch.cuda.is_available() else [runs]:
            for run in together:
                log = plan.logs / f"engine-{run.method.slug}-{dtype}.log"
                arguments = plan.engine_args(
                    run.method,
                    dtype=dtype,
                    enforce_eager=enforce_eager,
                    timed=timed,
                    num_engines=len(plan.engines),
                )
                engines.append((EngineProcess(arguments, log), run))
            ready += [started for started in engines[-len(together) :] if _is_ready(*started, dtype)]
        yield ready
    finally:
        for engine, _ in engines:
            engine.close()


def _is_ready(engine: EngineProcess, run: Run, dtype: str) -> bool:
    """Waits for an engine; False for a rival's that ended."""
    try:
        seconds = engine.wait_until_ready()
    except EngineError as error:
        if not run.method.is_rival:
            raise
        run.missing = f"its engine did not start: {str(error).splitlines()[-1]}"
        print(f"   {run.method}: not measured, {run.missing}", flush=True)
        return False
    print(f"   {run.method}, {dtype}: ready after {seconds:.0f} s", flush=True)
    return True
