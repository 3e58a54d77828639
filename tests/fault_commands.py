"""The commands that faults.py is tried on, and the figures of it.

python -m tests.fault_commands --number 100 --output benchmarks/results/faults/figures.json
"""

import argparse
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.faults import Command, Moments, disk_of_its_own, try_all
from tests.training.test_loop import SENTENCE, arguments, files, save_target
from vllm_mtp.common.files import compact_json, write_atomically
from vllm_mtp.common.provenance import processor_name, versions

FAULTS = ("kill", "kill at a file", "full disk", "read-only", "out of memory", "NaN")


def training(target: Path, data: Path) -> Command:
    """`vllm-mtp train` of twelve steps, with a store and checkpoints after 5, 10 and 12."""
    from transformers.models.llama import modeling_llama  # noqa: F401, so that no fork imports it

    def words(folder: Path) -> list[str]:
        return ["train", *arguments(target, data, folder / "draft", "--store", str(folder / "store"))]

    def result(folder: Path) -> dict[str, bytes]:
        found = files(folder)
        found.pop("draft/run_info.json")  # has times
        return found

    return Command(arguments=words, prepare=_prepare_training, result=result, interval=5)


def _prepare_training(done: Callable[[int], None], moments: Moments) -> None:
    from vllm_mtp.training import loop

    step, clip = loop.step, loop.nn.utils.clip_grad_norm_

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
        loop.nn.utils.clip_grad_norm_ = spoiled


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
        for row in try_all(training_in(Path(folder)), FAULTS, args.number, disk):
            rows.append({"command": "train --store", **row})
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
