"""The commands that faults.py is tried on, and the figures of it.

python -m tests.fault_commands --number 100 --output benchmarks/results/faults/figures.json
"""

import argparse
import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.faults import Command, Moments, disk_of_its_own, try_all
from tests.training.test_loop import SENTENCE, arguments, files, save_target
from vllm_mtp.common.files import compact_json, write_atomically
from vllm_mtp.common.provenance import processor_name, versions
from vllm_mtp.training import loop
from vllm_mtp.training.data import generate
from vllm_mtp.training.data.conversations import load_conversations

ROOT = Path(__file__).resolve().parent.parent
TEMPLATE = (
    "{% for message in messages %}# {{ message['role'] }}\n{{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}# assistant\n{% endif %}"
)

FAULTS = ("kill", "kill at a file", "full disk", "read-only", "out of memory", "NaN")


def training(target: Path, data: Path) -> Command:
    """`vllm-mtp train` of twelve steps, with a store and checkpoints after 5, 10 and 12."""
    from transformers.models.llama import modeling_llama  # noqa: F401, so that no fork imports it

    def words(folder: Path) -> list[str]:
        return ["train", *arguments(target, data, folder / "draft", "--store", str(folder / "store"))]

    def result(folder: Path) -> dict[str, bytes]:
        found = files(folder)
        found.pop("draft/run_info.json")  # has times
        found.pop("draft/log/steps.jsonl", None)  # so has this
        # What a killed writer left in a store, which others may write to, goes after an hour.
        return {name: content for name, content in found.items() if not name.startswith("store/") or ".tmp" not in name}

    return Command(arguments=words, prepare=_prepare_training, result=result, interval=5)


def _prepare_training(done: Callable[[int], None], moments: Moments) -> None:
    step, clip = loop.step, torch.nn.utils.clip_grad_norm_

    def noted(run: Any, index: int) -> Any:
        entry = step(run, index)
        done(index)
        return entry

    def spoiled(parameters: Any, most: float) -> torch.Tensor:
        parameters = list(parameters)
        moments.fault = lambda: parameters[0].grad.fill_(float("nan"))
        moments.pass_one("step")
        return clip(parameters, most)

    loop.step = noted
    if moments.kind in ("", "step"):
        torch.nn.utils.clip_grad_norm_ = spoiled


def generating(target: Path, prompts: Path, engine: Any) -> Command:
    """`vllm-mtp generate` of seven prompts in four batches, half of the answers sampled.

    Args:
        target: folder, with a chat template.
        prompts: file.
        engine: vLLM's, which every fork takes as it is.
    """
    flags = ("--batch-size 2", "--max-tokens 24", "--max-model-len 128", "--dtype float32", "--temperature 0 1")

    def words(folder: Path) -> list[str]:
        return [
            "generate",
            str(target),
            "--prompts",
            str(prompts),
            "--output",
            str(folder / "set"),
            *" ".join(flags).split(),
        ]

    def prepare(done: Callable[[int], None], moments: Moments) -> None:
        write = generate._write_batch

        def noted(run: Any, dtype: str, index: int, *more: Any) -> None:
            write(run, dtype, index, *more)
            done(index)

        generate._engine = lambda *_: contextlib.nullcontext(engine)  # type: ignore[assignment]
        generate._write_batch = noted

    def result(folder: Path) -> Any:
        return load_conversations(folder / "set"), files(folder).keys()

    return Command(arguments=words, prepare=prepare, result=result, interval=1)


def generating_in(folder: Path) -> Command:
    """The same with a real engine on the shipped target, and prompts in a folder."""
    target, prompts = folder / "chat", folder / "prompts.jsonl"
    shutil.copytree(ROOT / "examples" / "stdlib" / "target", target)
    (target / "chat_template.jinja").write_text(TEMPLATE)
    prompts.write_text("".join(json.dumps({"prompt": f"def function_{i}(self):"}) + "\n" for i in range(7)))
    os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
    from vllm import LLM

    engine = LLM(model=str(target), dtype="float32", max_model_len=128, max_num_seqs=4, enforce_eager=True, seed=0)
    return generating(target, prompts, engine)


def training_in(folder: Path) -> Command:
    """The same with a target and data of its own in a folder."""
    data = folder / "text.txt"
    data.write_text(SENTENCE * 20, encoding="utf-8")
    return training(save_target(folder / "target", tied=True), data)


def main() -> None:
    """Writes the figures."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--number", type=int, default=100, help="Faults of each kind.")
    parser.add_argument("--output", type=Path, required=True, help="JSON file.")
    args = parser.parse_args()
    rows = []
    with disk_of_its_own() as disk, tempfile.TemporaryDirectory() as folder:
        for name, command, faults in (
            ("train --store", training_in(Path(folder)), FAULTS),
            ("generate", generating_in(Path(folder)), FAULTS[:-1]),
        ):
            for row in try_all(command, faults, args.number, disk):
                rows.append({"command": name, **row})
                print(json.dumps(rows[-1]), flush=True)
        figures = {
            "made_with": f"python -m tests.fault_commands --number {args.number} --output {args.output}",
            "disk": "a file system of its own" if disk.is_mounted else "limits of file sizes and of access",
            "device": processor_name(),
            "versions": versions("vllm-mtp", "torch", "transformers"),
            "rows": rows,
        }
    args.output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(args.output, compact_json(figures))


if __name__ == "__main__":
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(1)
    main()
