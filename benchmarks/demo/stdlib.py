"""`make demo`: a frozen LLM gets an MTP drafter, live, and generates faster in vLLM with exactly the same output.

Distils a drafter for the shipped target, starts one vLLM engine per K, measures them in turn, prints one table and
writes it with a plot. Needs a checkout of the repository (examples/stdlib) and an environment with vLLM (`make setup`).

    python -m vllm_mtp.benchmarks.demo.stdlib
"""

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vllm_mtp.benchmarks.demo.command import parser_of, run_demo
from vllm_mtp.benchmarks.demo.measure import Plan, faster_dtype, measure
from vllm_mtp.benchmarks.demo.report import report, rows_of
from vllm_mtp.benchmarks.harness.checkout import ROOT, check_vllm, run_command
from vllm_mtp.benchmarks.harness.engine import can_compile
from vllm_mtp.benchmarks.harness.engine_args import EngineArgs
from vllm_mtp.benchmarks.harness.method import NONE, mtp
from vllm_mtp.benchmarks.harness.prompts import tokenized
from vllm_mtp.common.engine_options import EngineOptions
from vllm_mtp.common.settings import check_at_least, setting
from vllm_mtp.training.data.chat.template import ChatTemplate
from vllm_mtp.training.data.prompts import read_prompts
from vllm_mtp.training.record import RUN_INFO

EXAMPLE = ROOT / "examples" / "stdlib"
# The drafter's recipe (docs/log.md). Few distinct tokens seen six times, since the target's states are made once.
DATA_TOKENS = {"bfloat16": 600_000, "float32": 300_000}  # by the faster dtype: two to four minutes either way
EPOCHS = 6
TRAIN_FLAGS = (
    "--num-steps-unrolled=3",
    "--single-step-fraction=0.667",
    "--batch-size=8",
    "--sequence-length=256",
    "--checkpoint-every=300",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoConfig:
    """What the demo measures; the command line has a flag for every `setting`."""

    output: Path = setting(ROOT / "runs" / "demo", "Folder of the drafter, the figures and the plot.")
    max_num_seqs: int = setting(32, "Prompts generated together where outputs are compared.")
    num_speculative_tokens: tuple[int, ...] = (1, 2, 3, 5)
    """Every K; no speculation is measured beside them."""
    max_tokens: int = 96
    """New tokens per prompt; end-of-text does not stop generation, so that every K generates the same number."""
    passes: Mapping[float, int] = field(default_factory=lambda: {0.0: 3, 1.0: 2})
    """Passes over all prompts by temperature, the engines in turn; speeds and ratios are medians over passes."""
    max_model_len: int = 1024
    engine_options: EngineOptions = EngineOptions()

    def __post_init__(self) -> None:
        check_at_least(self, max_num_seqs=1)


def make_parser() -> argparse.ArgumentParser:
    return parser_of(DemoConfig, __doc__)


def main(argv: Sequence[str] | None = None) -> int:
    return run_demo("demo", DemoConfig, make_parser(), run, argv)


def run(config: DemoConfig) -> None:
    from transformers import AutoTokenizer

    start = time.perf_counter()
    if not (EXAMPLE / "target" / "model.safetensors").is_file():
        raise ValueError(f"expected the shipped target in {EXAMPLE / 'target'}; run the demo from a checkout")
    check_vllm()
    config.output.mkdir(parents=True, exist_ok=True)
    target, draft = EXAMPLE / "target", config.output / "draft"
    dtype = _dtype_of(draft) or faster_dtype(target, config.engine_options)
    print(f"1. Distil an MTP drafter for the frozen target examples/stdlib/target (in {dtype})", flush=True)
    distil(target, draft, config.output, dtype)
    template = ChatTemplate(AutoTokenizer.from_pretrained(target), plain=True)
    prompts = tokenized(read_prompts([EXAMPLE / "prompts.txt"]), template)
    engine = EngineArgs(
        target=str(target),
        draft=draft,
        variants=config.output,
        dtype=dtype,
        enforce_eager=not can_compile(),
        max_model_len=config.max_model_len,
        prefix_caching=True,
        max_num_seqs=config.max_num_seqs,
        options=config.engine_options,
    )
    plan = Plan(
        engine=engine,
        methods=dict.fromkeys(config.passes, (NONE, *(mtp(k) for k in config.num_speculative_tokens))),
        passes=config.passes,
        max_tokens=config.max_tokens,
        prompts_per_turn=len(prompts),
    )
    rows = rows_of(measure(plan, prompts), config.max_tokens)
    about = {"target": str(target.relative_to(ROOT)), "draft": str(draft)}
    report(plan, rows, output=config.output, command="make demo", start=start, about=about)
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
    """A finished drafter's dtype: a probe that comes out otherwise the second time must not ask for another one."""
    path = draft / RUN_INFO
    return str(json.loads(path.read_text())["dtype"]) if path.exists() else None


if __name__ == "__main__":
    raise SystemExit(main())
