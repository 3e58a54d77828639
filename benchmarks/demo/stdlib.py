"""`make demo`: a frozen LLM gets an MTP drafter, live, and generates faster in vLLM with exactly the same output.

Distils a drafter for the shipped target, starts one vLLM engine per K, measures them in turn, prints one table and
writes it with a plot. Needs a checkout of the repository (examples/stdlib) and an environment with vLLM (`make setup`).

    python -m vllm_mtp.benchmarks.demo.stdlib
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vllm_mtp.benchmarks.demo.report import rows_of, write_report
from vllm_mtp.benchmarks.harness.checkout import ROOT, check_vllm, run_command
from vllm_mtp.benchmarks.harness.engine import can_compile
from vllm_mtp.benchmarks.harness.method import NONE, mtp
from vllm_mtp.benchmarks.harness.passes import Plan, faster_dtype, measure
from vllm_mtp.benchmarks.harness.prompts import read_prompts
from vllm_mtp.common.flags import add_fields, config_of, message_of
from vllm_mtp.common.provenance import provenance
from vllm_mtp.common.settings import setting
from vllm_mtp.training.checkpoint import RUN_INFO

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
    """What the demo measures; the command line has a flag for every `setting`."""

    output: Path = setting(DEFAULT_OUTPUT, "Folder of the drafter, the figures and the plot.")
    num_speculative_tokens: tuple[int, ...] = (1, 2, 3, 5)
    """Every K; no speculation is measured beside them."""
    max_tokens: int = 96
    """New tokens per prompt; end-of-text does not stop generation, so that every K generates the same number."""
    passes: Mapping[float, int] = field(default_factory=lambda: {0.0: 3, 1.0: 2})
    """Passes over all prompts by temperature, the engines in turn; speeds and ratios are medians over passes."""
    max_model_len: int = 1024


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_fields(parser, DemoConfig)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the demo; returns 0, or 2 with one line on standard error if it cannot run here."""
    config = config_of(DemoConfig, make_parser().parse_args(argv))
    os.chdir(ROOT)
    try:
        run(config)
    except (ValueError, RuntimeError) as error:
        print(f"demo: {message_of(error)}", file=sys.stderr)
        return 2
    return 0


def run(config: DemoConfig) -> None:
    start = time.perf_counter()
    if not (EXAMPLE / "target" / "model.safetensors").is_file():
        raise ValueError(f"expected the shipped target in {EXAMPLE / 'target'}; run the demo from a checkout")
    check_vllm()
    config.output.mkdir(parents=True, exist_ok=True)
    target, draft = EXAMPLE / "target", config.output / "draft"
    dtype = _dtype_of(draft) or faster_dtype(target)
    print(f"1. Distil an MTP drafter for the frozen target examples/stdlib/target (in {dtype})", flush=True)
    distil(target, draft, config.output, dtype)
    print("2. Start one vLLM engine per K and compile them", flush=True)
    if not can_compile():
        print("   no C++ compiler here: torch.compile is off on both sides", flush=True)
    methods = (NONE, *(mtp(k) for k in config.num_speculative_tokens))
    plan = Plan(
        target=target,
        draft=draft,
        logs=config.output,
        methods=dict.fromkeys(config.passes, methods),
        passes=config.passes,
        max_tokens=config.max_tokens,
        max_model_len=config.max_model_len,
        dtype=dtype,
        enforce_eager=not can_compile(),
    )
    runs = measure(plan, prompts_of(target))
    result = {
        "target": str(target.relative_to(ROOT)),
        "draft": str(draft),
        "rows": rows_of(runs, config.max_tokens),
        "max_tokens": config.max_tokens,
        "batch_size": 1,
        "dtype": dtype,
        "compiled": not plan.enforce_eager,
        **provenance("make demo"),
        "seconds_in_all": round(time.perf_counter() - start),
    }
    write_report(result, config.output, "demo.png")
    print(f"The drafter is in {draft}")


def distil(target: Path, draft: Path, output: Path, dtype: str) -> None:
    """The two commands that a user would type; a finished drafter is kept, a killed run goes on."""
    corpus = output / "train.jsonl"
    commands = [
        [sys.executable, str(EXAMPLE / "corpus.py"), "--split", "train", "--output", str(corpus)],
        [
            *(sys.executable, "-m", "vllm_mtp.cli", "train", str(target.relative_to(ROOT))),
            *("--data", str(corpus), "--output", str(draft), "--dtype", dtype, *TRAIN_FLAGS),
            *("--tokens", str(EPOCHS * DATA_TOKENS[dtype]), "--data-tokens", str(DATA_TOKENS[dtype])),
        ],
    ]
    for command in commands:
        run_command(command)


def _dtype_of(draft: Path) -> str | None:
    """Of a finished drafter: a probe that comes out otherwise the second time must not ask for another one."""
    path = draft / RUN_INFO
    return str(json.loads(path.read_text())["dtype"]) if path.exists() else None


def prompts_of(target: Path) -> list[list[int]]:
    """Token ids of the shipped prompts."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(target)
    return [tokenizer(text).input_ids for text in read_prompts(EXAMPLE / "prompts.txt")]


if __name__ == "__main__":
    raise SystemExit(main())
