"""What becomes of a drafter when its target is fine-tuned, and what `train --initial` brings back.

Acceptance length of the drafter on the old target and on the tuned one, then of drafters trained on the tuned target's
own text: from the old drafter, and from nothing. The module alone, without lookup. Every row is written when it is
measured, and not measured again by the same command.

    python examples/smollm2/make_training_prompts.py --num 2000 --target examples/stdlib/target --output runs/text.jsonl
    python examples/stdlib/tune.py --text runs/text.jsonl --output runs/tuned
    vllm-mtp generate runs/tuned/target --prompts runs/tuned/train.jsonl --max-tokens 128 --output runs/tuned/text
    python -m vllm_mtp.benchmarks.finetune.study --draft runs/demo/draft --tuned runs/tuned/target \\
        --data runs/tuned/text --prompts runs/tuned/prompts.jsonl --output runs/after-finetune

The first drafter is that of `make demo`.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from vllm_mtp.benchmarks.finetune.table import table
from vllm_mtp.benchmarks.harness.checkout import ROOT, check_vllm
from vllm_mtp.benchmarks.harness.engine import EngineProcess
from vllm_mtp.benchmarks.harness.engine_args import EngineArgs
from vllm_mtp.benchmarks.harness.figures import figures
from vllm_mtp.benchmarks.harness.method import OFF, mtp
from vllm_mtp.benchmarks.harness.prompts import BenchmarkPrompt, sha256_of_tokens, tokenized
from vllm_mtp.benchmarks.harness.record import Request
from vllm_mtp.benchmarks.harness.report import write_report
from vllm_mtp.benchmarks.harness.row_store import RowStore
from vllm_mtp.common.flags import message_of
from vllm_mtp.common.provenance import provenance, relative
from vllm_mtp.contract.checkpoint import read_config
from vllm_mtp.contract.fingerprint import stored_weights_sha256
from vllm_mtp.training.config import TrainConfig
from vllm_mtp.training.data.chat.template import ChatTemplate
from vllm_mtp.training.data.prompts import read_prompts
from vllm_mtp.training.loop import train
from vllm_mtp.training.run import TrainInputs

OLD_TARGET = ROOT / "examples" / "stdlib" / "target"
NUM_SPECULATIVE_TOKENS = 3
MAX_TOKENS = 96
TEMPERATURES = (0.0, 1.0)
TRAINING: dict[str, Any] = {"sequence_length": 256, "batch_size": 4, "warmup_steps": 10, "dtype": "float32"}
"""1,024 positions a step, so that few tokens still are some steps."""
ROW = "row"


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """A drafter to measure."""

    on: str = "tuned"
    """The target: "old" or "tuned"."""
    start: str
    """"old drafter" or "nothing"."""
    tokens: int = 0
    """Asked for in training; 0: the old drafter as it is."""
    learning_rate: float | None = None
    seed: int = 0

    @property
    def name(self) -> str:
        rate = f"-lr{self.learning_rate:g}" if self.learning_rate else ""
        return f"{self.on}-{self.start.replace(' ', '-')}-{self.tokens}{rate}-s{self.seed}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Study:
    """What is compared on what."""

    draft: Path
    tuned: Path
    data: Path
    prompts: Sequence[BenchmarkPrompt]
    output: Path

    def target_of(self, arm: Arm) -> Path:
        return OLD_TARGET if arm.on == "old" else self.tuned


def arms_of(tokens: Sequence[int], learning_rates: Sequence[float], seeds: Sequence[int]) -> list[Arm]:
    """The old drafter on both targets; then by seed from the old drafter and from nothing, at the usual peak learning
    rate, and from the old drafter at others."""
    found = [Arm(on=on, start="old drafter") for on in ("old", "tuned")]
    for seed in seeds:
        starts = ("old drafter", "nothing")
        found += [Arm(start=start, tokens=number, seed=seed) for number in tokens for start in starts]
    return found + [
        Arm(start="old drafter", tokens=number, learning_rate=rate, seed=seed)
        for seed in seeds
        for rate in learning_rates
        for number in tokens
    ]


def measure(study: Study, arm: Arm) -> dict[str, Any]:
    """Trains the drafter, where there is something to train, and counts what vLLM accepts of it."""
    info = _train(study, arm) if arm.tokens else {}
    draft = study.output / "drafts" / arm.name if arm.tokens else study.draft
    engine = EngineArgs(
        target=str(study.target_of(arm)),
        draft=draft,
        variants=_folder(study.output / "variants" / arm.name),
        dtype="float32",
        enforce_eager=True,
        max_model_len=max(len(prompt.token_ids) for prompt in study.prompts) + MAX_TOKENS + 16,
    )
    log = _folder(study.output / "logs") / f"{arm.name}.log"
    request = Request(prompts=study.prompts, max_tokens=MAX_TOKENS, batch_size=len(study.prompts))
    with EngineProcess(engine.of(mtp(NUM_SPECULATIVE_TOKENS, lookup=OFF)), log) as vllm:
        found = {f"{at:g}": vllm.measure(replace(request, temperature=at)) for at in TEMPERATURES}
    return {
        "tokens_seen": info.get("tokens_seen", 0),
        "temperatures": {at: asdict(figures(records, max_tokens=MAX_TOKENS)) for at, records in found.items()},
    }


def _train(study: Study, arm: Arm) -> dict[str, Any]:
    old = read_config(study.draft)
    config = TrainConfig(
        tokens=arm.tokens,
        learning_rate=arm.learning_rate,
        seed=arm.seed,
        intermediate_size=old["intermediate_size"],
        **TRAINING,
    )
    inputs = TrainInputs(
        target=str(study.tuned),
        data=[study.data],
        output=study.output / "drafts" / arm.name,
        initial=study.draft if arm.start == "old drafter" else None,
        store=study.output / "store",
    )
    return train(config, inputs)


def run(study: Study, arms: Sequence[Arm], command: str) -> None:
    """Measures what is not in the output folder yet, then writes results.json and table.md."""
    store = store_of(study)
    for number, arm in enumerate(arms, start=1):
        if arm.name not in store:
            print(f"\n{number} of {len(arms)}: {arm.name}", file=sys.stderr)
            row = asdict(arm) | measure(study, arm) | {"made_with": provenance(command, arm.seed)}
            store.save(arm.name, ROW, row)
    result = {
        "k": NUM_SPECULATIVE_TOKENS,
        "max_tokens": MAX_TOKENS,
        "num_prompts": len(study.prompts),
        "training": TRAINING,
        "tuned": json.loads((study.tuned.parent / "tuned.json").read_text("utf-8")),
        "arms": [store.load(arm.name) for arm in arms],
    }
    print(write_report(result, study.output, table))


def store_of(study: Study) -> RowStore:
    """The rows that are there, if they were made with what this study is made of."""
    settings = {
        "k": NUM_SPECULATIVE_TOKENS,
        "max_tokens": MAX_TOKENS,
        "training": TRAINING,
        "draft": stored_weights_sha256(str(study.draft)),
        "tuned": stored_weights_sha256(str(study.tuned)),
        "prompts": sha256_of_tokens(study.prompts),
    }
    return RowStore(study.output, {ROW: settings})


def _folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draft", type=Path, required=True, help="the old target's drafter")
    parser.add_argument("--tuned", type=Path, required=True, help="the tuned target, in the folder of tune.py")
    parser.add_argument("--data", type=Path, required=True, help="its own text")
    parser.add_argument("--prompts", type=Path, required=True, help="to measure on")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--tokens", type=int, nargs="+", default=[25_000, 50_000, 150_000])
    parser.add_argument("--learning-rates", type=float, nargs="*", default=[0.005], help="other than the usual 0.02")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    from transformers import AutoTokenizer

    args = make_parser().parse_args(argv)
    try:
        check_vllm()
        template = ChatTemplate(AutoTokenizer.from_pretrained(args.tuned), plain=True)
        prompts = tokenized(read_prompts([args.prompts]), template)
        study = Study(draft=args.draft, tuned=args.tuned, data=args.data, prompts=prompts, output=args.output)
        words = sys.argv[1:] if argv is None else argv
        command = " ".join(["python -m vllm_mtp.benchmarks.finetune.study", *map(relative, words)])
        run(study, arms_of(args.tokens, args.learning_rates, args.seeds), command)
    except (ValueError, RuntimeError, OSError) as error:
        print(f"finetune: {message_of(error)}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
