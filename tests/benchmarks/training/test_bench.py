"""A step by its parts: the real step, and an arithmetic that is that of its products.

Catches: a floor above what the products need, a part that is timed and does nothing.
"""

import json
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from vllm_mtp.benchmarks.training.bench import PARTS, _measured, floors, make_step
from vllm_mtp.benchmarks.training.config import StepConfig
from vllm_mtp.cli import main
from vllm_mtp.training.frozen.target import FrozenTarget
from vllm_mtp.training.loss.fixed import FixedStep
from vllm_mtp.training.loss.shapes import Shape

SMALL = StepConfig(num_steps_unrolled=(2,), sequence_length=64, batch_size=2)


@pytest.fixture(scope="module")
def target(target_dir: Path) -> FrozenTarget:
    return FrozenTarget.load(str(target_dir), device="cpu", dtype="float32")


@pytest.mark.parametrize("part", ["target", "module", "loss", "backward"])
def test_the_floor_is_what_is_multiplied(target: FrozenTarget, part: str) -> None:
    """As torch counts it, which leaves out attention on a CPU."""
    step = make_step(target, SMALL, 2)
    step.run(*PARTS[: PARTS.index(part)])
    with FlopCounterMode(display=False) as counter:
        step.run(part)
    assert 0.9 < counter.get_total_flops() / floors(step)[part] < 1.6


def test_a_step_learns(target: FrozenTarget) -> None:
    step = make_step(target, SMALL, 2)
    step.run(*PARTS)
    before = step.value
    for _ in range(3):
        step.run(*PARTS)
    assert before is not None
    assert step.value is not None
    assert step.value < before


def test_a_compiled_step_is_timed_too(target: FrozenTarget) -> None:
    step = make_step(target, SMALL, 2)
    step.fixed = FixedStep([Shape.of(step.batch)], "eager", pytest.fail)
    rows = list(_measured(step, floors(step), 1e9, 1, is_compiled=True))
    assert [row["part"] for row in rows] == [*PARTS, "step", "step, compiled"]
    assert rows[-1]["floor_flops"] == rows[-2]["floor_flops"]
    assert "operators" not in rows[-1]
    said: list[str] = []
    step.fixed = FixedStep([Shape.of(step.batch)], lambda *_: 1 / 0, said.append)
    rows = list(_measured(step, floors(step), 1e9, 1, is_compiled=True))
    assert [row["part"] for row in rows] == [*PARTS, "step"], "what ran without the compiler is not called compiled"
    assert len(said) == 1


def test_the_command(target_dir: Path, tmp_path: Path) -> None:
    words = ["--sequence-length", "32", "--batch-size", "2", "--repeats", "1", "--num-steps-unrolled", "1", "2"]
    vocabulary = ["--draft-vocab-size", "100", "--dtype", "float32"]
    assert main(["bench", "training", str(target_dir), "--output", str(tmp_path), *words, *vocabulary]) == 0
    result = json.loads((tmp_path / "results.json").read_text())
    assert [row["part"] for row in result["rows"]] == [*PARTS, "step"] * 2
    assert all(row["time_ms"] > 0 and row["floor_ms"] >= 0 for row in result["rows"])
    text = (tmp_path / "table.md").read_text()
    assert "draft vocabulary: 100" in text
    assert [(found["graphs"], found["graph_breaks"]) for found in result["graphs"]] == [(1, 0)] * 2
    assert result["graphs"][0]["shape"] == {"num_rows": 2, "num_tokens": 32, "num_places": 62}
    assert "with 0 breaks. Compiled it was not timed: not asked for. Operators and graphs are those of a GPU" in text
    *parts, step = result["rows"][: len(PARTS) + 1]
    assert step["operators"] == sum(row["operators"] for row in parts)
    assert all(row["operators"] > 0 and row["written_bytes"] > 0 for row in parts)
    assert torch.tensor([row["floor_flops"] for row in result["rows"]]).gt(0).all()
