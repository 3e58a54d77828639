"""Which engines are alive when the demos measure."""

from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.records import prompt
from vllm_mtp.benchmarks.demo import measure as demo
from vllm_mtp.benchmarks.demo.measure import Plan, Run
from vllm_mtp.benchmarks.harness.engine import EngineError
from vllm_mtp.benchmarks.harness.engine_args import EngineArgs
from vllm_mtp.benchmarks.harness.method import BASELINES, NONE, mtp
from vllm_mtp.benchmarks.harness.record import Record, Request

EVENTS: list[str] = []


def args_of(folder: Path) -> EngineArgs:
    return EngineArgs(target="t", draft=folder, variants=folder, dtype="bfloat16", enforce_eager=True, max_model_len=16)


class Engine:
    """Stands in for an engine's process; suffix decoding's ends while it starts."""

    def __init__(self, arguments: dict[str, Any], log: Path) -> None:
        self.log = log
        EVENTS.append(f"start {log.stem}")

    def wait_until_ready(self) -> float:
        EVENTS.append(f"ready {self.log.stem}")
        if "suffix" in self.log.stem:
            raise EngineError("an engine ended", self.log)
        return 1.0

    def close(self) -> None:
        EVENTS.append(f"close {self.log.stem}")


@pytest.mark.parametrize("gpu", [False, True])
def test_on_a_gpu_engines_start_one_after_another(
    gpu: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches engines that count each other's memory as their own, and a baseline's end that ends everything."""
    EVENTS.clear()
    monkeypatch.setattr(demo, "EngineProcess", Engine)
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpu)
    runs = [Run(method=method) for method in (NONE, mtp(1), BASELINES["suffix"])]
    with demo._engines(runs, args_of(tmp_path)) as engines:
        assert [run.method for _, run in engines] == [NONE, mtp(1)]
    kinds = [event.split()[0] for event in EVENTS]
    starts = ["start", "ready"] * 3 if gpu else ["start"] * 3 + ["ready"] * 3
    assert kinds == [*starts, *["close"] * 3]
    assert runs[2].missing == "its engine did not start: an engine ended"
    assert "suffix" in capsys.readouterr().out


def test_each_temperature_has_methods_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One engine for each method; outputs are compared at temperature 0, between those measured there."""
    measured: list[tuple[int, str, float]] = []

    class Measured(Engine):
        def warm_up(self, request: Request) -> None:
            pass

        def measure(self, request: Request, on_progress: object = None) -> list[Record]:
            measured.append((len(request.prompts) // request.batch_size, self.log.stem, request.temperature))
            return [Record(token_ids=[1]) for _ in request.prompts]

    monkeypatch.setattr(demo, "EngineProcess", Measured)
    greedy, sampled = (NONE, mtp(1, local_argmax=True)), (NONE, mtp(1))
    plan = Plan(
        engine=args_of(tmp_path), methods={0.0: greedy, 1.0: sampled}, passes={0.0: 1, 1.0: 1}, max_tokens=4,
        prompts_per_turn=2,
    )  # fmt: skip
    runs = demo.measure(plan, [prompt(1), prompt(2, number=1)])
    assert [(run.method, list(run.passes)) for run in runs] == [
        (NONE, [0.0, 1.0]),
        (mtp(1, local_argmax=True), [0.0]),
        (mtp(1), [1.0]),
    ]
    none, argmax, logits = (f"engine-{run.method.slug}" for run in runs)
    assert measured == [
        (2, f"{none}-bfloat16", 0.0),
        (2, f"{argmax}-bfloat16", 0.0),
        (2, f"{none}-bfloat16", 1.0),
        (2, f"{logits}-bfloat16", 1.0),
        (1, f"{none}-float32", 0.0),
        (1, f"{argmax}-float32", 0.0),
    ]
