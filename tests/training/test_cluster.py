"""Batches by workers of a real Ray cluster, two nodes on this machine: what one process would have made.

Catches: a batch that is there twice or not at all, a worker's death that ends the run or is waited for without end,
text or hidden states that depend on which worker made them, an error of a worker that says nothing.
"""

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.training.test_loop import TINY, files, run_train, save_target, weights
from vllm_mtp.common.errors import InputError
from vllm_mtp.common.flags import words_of
from vllm_mtp.training.cluster_options import ClusterOptions
from vllm_mtp.training.config import TrainConfig
from vllm_mtp.training.data.generate import generate
from vllm_mtp.training.data.generate_config import GenerateConfig
from vllm_mtp.training.frozen.reachable import check_reachable
from vllm_mtp.training.work import check_workers, workers

pytestmark = pytest.mark.slow
TASKS = {f"task {number}": number for number in range(6)}


@pytest.fixture(scope="module")
def two_nodes() -> Iterator[ClusterOptions]:
    """A cluster of two nodes, one CPU and so one worker each."""
    pytest.importorskip("ray.data", reason="Ray is not installed")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    yield ClusterOptions(ray=cluster.address)
    cluster.shutdown()


@dataclass
class Squares:
    """Takes a while for each; what is done with one of them is told by name."""

    folder: Path
    fate: str = ""

    num_done: int = 0
    """By one worker."""

    @contextmanager
    def opened(self) -> Iterator[Callable[[int], tuple[int, int]]]:
        if self.fate == "does not start":
            raise ValueError("vLLM does not start: no memory")
        yield self.square

    def square(self, number: int) -> tuple[int, int]:
        (self.folder / f"{number}.{time.time_ns()}").touch()
        if number == 3 and self.fate == "unknown id":
            raise InputError("target", "unknown id 3")
        first = len(list(self.folder.glob("3.*"))) < 2
        if self.fate == "breaks" and self.num_done and not (self.folder / "broken").exists():
            (self.folder / "broken").touch()
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        self.num_done += 1
        if self.fate == "all die" or (number == 3 and (self.fate == "dies" or (self.fate == "dies once" and first))):
            os.kill(os.getpid(), signal.SIGKILL)
        return number**2, os.getpid()


def squares(options: ClusterOptions, work: Squares) -> list[tuple[str, tuple[int, int]]]:
    with workers(options, None, lambda: None) as found:
        assert not found.has_gpus
        return list(found.results(work, TASKS))


def test_every_task_comes_back_once(two_nodes: ClusterOptions, tmp_path: Path) -> None:
    found = squares(two_nodes, Squares(tmp_path))
    assert sorted((name, value) for name, (value, _) in found) == [(name, n**2) for name, n in TASKS.items()]
    assert os.getpid() not in {process for _, (_, process) in found}
    assert len(list(tmp_path.iterdir())) == len(TASKS)


def test_a_worker_that_dies_costs_a_task(
    two_nodes: ClusterOptions, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = squares(two_nodes, Squares(tmp_path, "dies once"))
    assert sorted((name, value) for name, (value, _) in found) == [(name, n**2) for name, n in TASKS.items()]
    assert sorted(path.stem for path in tmp_path.iterdir()) == ["0", "1", "2", "3", "3", "4", "5"]
    assert "handed out again: 1 batches" in caplog.text


def test_a_gpu_that_falls_out_costs_a_task(two_nodes: ClusterOptions, tmp_path: Path) -> None:
    """Catches one that ends the work of all."""
    found = squares(two_nodes, Squares(tmp_path, "breaks"))
    assert sorted((name, value) for name, (value, _) in found) == [(name, n**2) for name, n in TASKS.items()]
    assert (tmp_path / "broken").exists()


def test_an_engine_that_does_not_start_again_ends_its_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches the same GPU that ends the work of all when a new worker finds it."""
    pytest.importorskip("ray.data", reason="Ray is not installed")
    from vllm_mtp.training.cluster import _Worker

    def leave(status: int) -> None:
        raise SystemExit(status)

    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr(os, "_exit", leave)
    row = {"name": "task 1", "task": pickle.dumps(1)}
    with pytest.raises(SystemExit):
        _Worker(Squares(tmp_path, "does not start"), has_worked=True)(row)
    result = _Worker(Squares(tmp_path, "unknown id"), has_worked=True)(row | {"task": pickle.dumps(3)})["result"]
    assert pickle.loads(result).message == "unknown id 3", "of the task, not of the machine"


@pytest.mark.parametrize(
    ("fate", "field", "message"),
    [
        ("dies", "ray", "workers die before they finish a batch, 1 are missing; Ray says: The actor"),
        ("all die", "ray", "workers die before they finish a batch, 6 are missing; Ray says: The actor"),
        ("unknown id", "target", r"on [0-9.]+: unknown id 3"),
        ("does not start", "ray", r"on [0-9.]+: ValueError: vLLM does not start: no memory"),
    ],
)
def test_what_no_worker_can_do(two_nodes: ClusterOptions, tmp_path: Path, fate: str, field: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as refusal:
        squares(two_nodes, Squares(tmp_path, fate))
    assert refusal.value.field == field


def test_what_is_wrong_with_a_cluster(two_nodes: ClusterOptions, tmp_path: Path) -> None:
    def refusal(check: Callable[[], None] = lambda: None, **options: Any) -> str:
        with pytest.raises(InputError) as found, workers(ClusterOptions(ray=two_nodes.ray, **options), None, check):
            pass
        assert found.value.field == "ray"
        return found.value.message

    absent = refusal(partial(check_reachable, str(tmp_path / "absent"), None, "a hash"))
    assert "cannot be used: target: expected the target at" in absent
    assert "found no weights" in absent
    assert refusal(ray_gpus=2) == (
        "expected a node with 1 CPUs and 2 GPUs for a worker, found 1 CPUs and 0 GPUs; 1 CPUs and 0 GPUs"
    )


def test_an_address_where_nobody_is() -> None:
    pytest.importorskip("ray.data", reason="Ray is not installed")
    message = "expected a Ray cluster at 127.0.0.1:9 that can be joined: .*refused"
    with pytest.raises(InputError, match=message), workers(ClusterOptions(ray="127.0.0.1:9"), None, lambda: None):
        pass
    with pytest.raises(InputError, match="expected ray beside it"):
        ClusterOptions(ray_workers=2)


def test_no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"pip install 'vllm-mtp\[ray\]'"):
        check_workers(ClusterOptions(ray="auto"))
    check_workers(ClusterOptions())


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_target(tmp_path_factory.mktemp("target") / "tiny", tied=True)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "text.txt"
    path.write_text("".join(f"sentence {number} of {number * 7} words; " for number in range(150)), encoding="utf-8")
    return path


def test_a_store_is_that_of_one_process(two_nodes: ClusterOptions, tiny: Path, text: Path, tmp_path: Path) -> None:
    config = TrainConfig(tokens=4 * 128, **TINY)
    run_train(config, tiny, text, tmp_path / "alone", store=tmp_path / "store")
    run_train(config, tiny, text, tmp_path / "cluster", store=tmp_path / "stores", cluster=two_nodes)
    assert len(files(tmp_path / "store")) > 20
    assert files(tmp_path / "stores") == files(tmp_path / "store")
    assert weights(tmp_path / "cluster") == weights(tmp_path / "alone")
    with pytest.raises(InputError, match="its workers fill a store"):
        run_train(config, tiny, text, tmp_path / "none", cluster=two_nodes)


ANSWERS = GenerateConfig(
    temperature=(0.0, 1.0), max_tokens=96, batch_size=4, max_num_seqs=4, max_model_len=256, dtype="float32"
)


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("questions") / "questions.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"def function_{i}(self):"}) + "\n" for i in range(40)))
    return path


@pytest.fixture(scope="module")
def answered_here(target_dir: Path, questions: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    output = tmp_path_factory.mktemp("here") / "set"
    generate(ANSWERS, target=str(target_dir), prompts=[questions], output=output, show_progress=False)
    return (output / "conversations.npz").read_bytes()


def num_batches(output: Path) -> int:
    return len(list((output / "batches").glob("*.npz")))


def kill_a_worker(output: Path, killed: list[int]) -> None:
    """While the second or third batch is being answered."""
    import psutil

    while not num_batches(output):
        time.sleep(0.05)
    processes = psutil.Process().children(recursive=True)
    killed += [process.pid for process in processes if process.name().startswith("ray::MapWorker")][:1]
    os.kill(killed[0], signal.SIGKILL)


@pytest.mark.vllm
@pytest.mark.extended
def test_conversations_are_those_of_one_process(
    two_nodes: ClusterOptions, target_dir: Path, questions: Path, answered_here: bytes, tmp_path: Path
) -> None:
    """One of two real engines is killed half-way."""
    killed: list[int] = []
    killer = threading.Thread(target=kill_a_worker, args=(tmp_path / "set", killed), daemon=True)
    killer.start()
    more: dict[str, Any] = {"cluster": two_nodes, "show_progress": False}
    info = generate(ANSWERS, target=str(target_dir), prompts=[questions], output=tmp_path / "set", **more)
    assert len(killed) == 1
    assert info["dropped"]["asked"] == 40
    assert (tmp_path / "set" / "conversations.npz").read_bytes() == answered_here


@pytest.mark.vllm
@pytest.mark.extended
def test_ctrl_c_leaves_what_is_written(target_dir: Path, questions: Path, answered_here: bytes, tmp_path: Path) -> None:
    """The command, on a cluster of its own; another one, without any, goes on."""
    import psutil

    pytest.importorskip("ray.data", reason="Ray is not installed")
    output = tmp_path / "set"
    words = ["generate", str(target_dir), "--prompts", str(questions), "--output", str(output), *words_of(ANSWERS)]
    command = [sys.executable, "-m", "vllm_mtp.cli", *words]
    with (tmp_path / "said").open("w") as said:
        cluster = ["--ray", "local", "--ray-workers", "2"]
        process = subprocess.Popen([*command, *cluster], stdout=said, stderr=said, start_new_session=True)
        while not num_batches(output):
            assert process.poll() is None, (tmp_path / "said").read_text()[-4000:]
            time.sleep(0.05)
        others = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(timeout=60) == 130
    assert (tmp_path / "said").read_text().splitlines()[-1] == (
        "vllm-mtp generate: interrupted; the same command goes on"
    )
    assert not psutil.wait_procs(others, timeout=30)[1]
    assert 0 < num_batches(output) < 10
    subprocess.run(command, check=True, timeout=300)
    assert (output / "conversations.npz").read_bytes() == answered_here


@pytest.mark.vllm
@pytest.mark.extended
def test_a_store_of_vllm_s_hidden_states(
    two_nodes: ClusterOptions, target_dir: Path, text: Path, tmp_path: Path
) -> None:
    config = TrainConfig(tokens=2 * 128, hidden_states="vllm", **TINY)
    run_train(config, target_dir, text, tmp_path / "alone", store=tmp_path / "store")
    run_train(config, target_dir, text, tmp_path / "cluster", store=tmp_path / "stores", cluster=two_nodes)
    assert files(tmp_path / "stores") == files(tmp_path / "store")
