"""The search of `bench tune-kernels` and what it writes, with a clock that is made up: there is no GPU here.

Catches: a shipped entry that is displaced by noise, a launch that fails and stops the others or wins, an entry that
cannot be pasted, a GPU that is asked for in vain with a traceback. The real kernels are tuned once in the interpreter:
tests/kernels/interpreter/test_tune.py.
"""

from pathlib import Path
from typing import Any

import pytest
import torch

from vllm_mtp.benchmarks.kernels import tune as kernels_tune
from vllm_mtp.benchmarks.kernels.search import search
from vllm_mtp.benchmarks.kernels.tunables import Tunable
from vllm_mtp.benchmarks.kernels.tune import entries, python, table
from vllm_mtp.cli import main
from vllm_mtp.kernels.common.tables import Launch

LAUNCH = Launch({"BLOCK_V": 128}, 4)


def found_with(times: dict[str, float | str]) -> Any:
    """A search among names; a text is why that one does not run."""

    def time_us(name: str) -> float:
        value = times[name]
        if isinstance(value, str):
            raise RuntimeError(value)
        return value

    return search("shipped", times, time_us)


def test_the_fastest_wins() -> None:
    found = found_with({"a": 9.0, "shipped": 10.0, "b": 8.0})
    times_us = [["b", 8.0], ["a", 9.0], ["shipped", 10.0]]
    assert found == {"best": "b", "ratio": 0.8, "times_us": times_us, "failures": []}


@pytest.mark.parametrize("other", [9.9, 10.0, 12.0])
def test_noise_changes_nothing(other: float) -> None:
    found = found_with({"shipped": 10.0, "a": other})
    assert (found["best"], found["ratio"]) == ("shipped", 1.0)


def test_what_fails_is_reported() -> None:
    found = found_with({"shipped": 10.0, "a": "out of resource: shared memory\nand more", "b": 5.0})
    assert (found["best"], found["ratio"]) == ("b", 0.5)
    assert found["failures"] == [["a", "RuntimeError: out of resource: shared memory"]]
    found = found_with({"shipped": "no", "a": 7.0})
    assert (found["best"], found["ratio"]) == ("a", None)
    found = found_with({"shipped": "no", "a": ""})
    assert (found["best"], found["ratio"], found["times_us"]) == (None, None, [])
    assert [name for name, _ in found["failures"]] == ["shipped", "a"]


def test_every_candidate_is_timed_once() -> None:
    timed: list[str] = []
    search("shipped", ["a", "shipped"], lambda name: timed.append(name) or 1.0)  # type: ignore[func-returns-value]
    assert timed == ["shipped", "a"]


def test_a_time_without_a_graph_is_not_compared_with_times_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels_tune, "measure_run", lambda *_, **__: {"time_us": 1.0, "graph_missing": "no memory"})
    tunable = Tunable("a table", 16, LAUNCH, (), {"a shape": lambda candidate: None})
    with pytest.raises(RuntimeError, match="not in a graph: no memory"):
        kernels_tune._time_us(tunable, torch.device("cpu"), 0.001, LAUNCH)


def row(name: str, bucket: int, best: Launch | None, ratio: float | None = 0.9) -> dict[str, object]:
    return {
        "table": name,
        "bucket": bucket,
        "shipped": "None",
        "best": None if best is None else python(best),
        "ratio": ratio,
        "times_us": [],
        "failures": [["Launch({})", "RuntimeError: spilt"]],
    }


def test_entries_can_be_pasted() -> None:
    launches = {16: Launch({"BLOCK_V": 128, "BLOCK_T": 16}, 4, 3), 32: Launch({"BLOCK_V": 64, "BLOCK_T": 32}, 8)}
    name = 'kernels/draft_head/kernel.py: TABLES["16 bits"]'
    rows = [*(row(name, bucket, launch) for bucket, launch in launches.items()), row(name, 64, None, None)]
    text = entries("sm_90", rows)
    assert "16: Launch(" in text
    assert "# 0.900 of the shipped time" in text
    assert "# nothing ran" in text
    assert eval(f"{{{text}}}", {"Launch": Launch}) == {"sm_90": launches}
    result = {"hardware": "a GPU", "architecture": "sm_90", "versions": {"torch": "2"}, "command": "x", "rows": rows}
    assert text in table(result)
    assert "RuntimeError: spilt" in table(result)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_one_line_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "tune-kernels", "--output", str(tmp_path / "new")]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "vllm-mtp bench: --device: expected a GPU, whose launches are to be timed; there is none, or it is cpu"
    ]
    assert not (tmp_path / "new").exists()
