"""A run that is watched: every step once, also of a run that was killed.

Catches: steps that are shown twice after a kill, half a line taken for a broken file, a tool missed after hours.
"""

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.training.test_loop import STEP, TINY, run_train, save_target
from vllm_mtp.training.config import TrainConfig
from vllm_mtp.training.record import Entry, HeldOut
from vllm_mtp.training.watch import check_reports, values_of, watch


def lines(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "log" / "steps.jsonl").read_text().splitlines()]


def test_a_run_leaves_a_line_a_step(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog; " * 100)
    target = save_target(tmp_path / "target", tied=True)
    run_train(TrainConfig(tokens=6 * STEP, checkpoint_every=3, **TINY), target, tmp_path / "text.txt", tmp_path / "d")
    found = lines(tmp_path / "d")
    assert [line["step"] for line in found] == [1, 2, 3, 4, 5, 6]
    assert [line["step"] for line in found if "held_out/agreement_4" in line] == [3, 6]
    assert all(line["held_out/acceptance_length"] >= 1 for line in found if "held_out/loss" in line)
    assert all(line["train/loss"] > 0 and line["train/tokens_per_second"] > 0 for line in found)


def test_what_a_killed_run_showed_beyond_its_checkpoint_is_taken_back(tmp_path: Path) -> None:
    with watch(["jsonl"], tmp_path, 0, {}) as show:
        for step in range(1, 8):
            show(step, {"train/loss": 1.0})
    path = tmp_path / "log" / "steps.jsonl"
    path.write_text(path.read_text() + '{"step": 8, "train/lo')
    with watch(["jsonl"], tmp_path, 5, {}) as show:
        show(6, {"train/loss": 0.5})
    assert [(line["step"], line["train/loss"]) for line in lines(tmp_path)][-2:] == [(5, 1.0), (6, 0.5)]
    assert len(lines(tmp_path)) == 6


def test_what_cannot_be_written_ends_no_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with watch(["jsonl"], tmp_path, 0, {}) as show:
        show(1, {"train/loss": 1.0})
        shutil.rmtree(tmp_path / "log")
        show(2, {"train/loss": 1.0})
        show(3, {"train/loss": 1.0})
    assert caplog.text.count("jsonl shows no more of this run") == 1
    with pytest.raises(OSError, match="of the run"), watch(["jsonl"], tmp_path, 0, {}):
        raise OSError("of the run")


def test_values() -> None:
    held_out = HeldOut(
        loss=2.0, agreement_per_position=[0.5], overlap_per_position=[0.6], positions=9,
        acceptance_length=1.5, acceptance_length_95=(1.25, 1.75),
    )  # fmt: skip
    entry = Entry(step=3, loss=1.5, agreement_per_position=[0.4, 0.3], held_out=held_out)
    assert values_of(entry, 0.5, 100.04) == {
        "train/loss": 1.5,
        "train/learning_rate_factor": 0.5,
        "train/agreement_0": 0.4,
        "train/agreement_1": 0.3,
        "train/tokens_per_second": 100.0,
        "held_out/loss": 2.0,
        "held_out/agreement_0": 0.5,
        "held_out/overlap_0": 0.6,
        "held_out/acceptance_length": 1.5,
        "held_out/acceptance_length_95_low": 1.25,
        "held_out/acceptance_length_95_high": 1.75,
    }


@pytest.mark.parametrize("package", ["wandb", "trackio"])
def test_tools_with_the_functions_of_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    called: list[Any] = []
    module = SimpleNamespace(
        init=lambda **how: called.append(how),
        log=lambda values, step: called.append((step, values)),
        finish=lambda: called.append("finished"),
        __spec__=SimpleNamespace(),
    )
    monkeypatch.setitem(sys.modules, package, module)  # type: ignore[arg-type]
    with watch(check_reports([package]), tmp_path / "draft", 0, {"seed": 1}) as show:
        show(1, {"train/loss": 1.0})
    assert called == [
        {"project": "vllm-mtp", "name": "draft", "config": {"seed": 1}},
        (1, {"train/loss": 1.0}),
        "finished",
    ]


def test_tensorboard_reads_what_is_written(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with watch(["tensorboard"], tmp_path, 0, {}) as show:
        show(1, {"train/loss": 1.0})
        show(2, {"train/loss": 0.5})
    found = EventAccumulator(str(tmp_path / "log"))
    found.Reload()
    assert [(event.step, event.value) for event in found.Scalars("train/loss")] == [(1, 1.0), (2, 0.5)]


def test_what_is_not_installed_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vllm_mtp.training.watch.importlib.util.find_spec", lambda name: None)
    assert check_reports(None) == ("jsonl",)
    with pytest.raises(ValueError, match=r"report_to: expected wandb .* pip install wandb"):
        check_reports(["jsonl", "wandb"])
