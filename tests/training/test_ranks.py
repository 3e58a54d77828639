"""One run in several processes or parts: the loss of one, row for row.

Catches: means of means where parts count other numbers of positions, rows left out or seen twice, a store that two
processes fill with each other's batches, ranks that update by themselves.
"""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.training.test_loop import SENTENCE, STEP, TINY, curve, files, run_train, save_target
from vllm_mtp.common import claim
from vllm_mtp.common.claim import claimed
from vllm_mtp.common.flags import words_of
from vllm_mtp.contract.checkpoint import load_draft
from vllm_mtp.training import loop, ranks
from vllm_mtp.training.config import TrainConfig
from vllm_mtp.training.data.batches import Batch, Batches
from vllm_mtp.training.data.generate import generate
from vllm_mtp.training.data.generate_config import GenerateConfig
from vllm_mtp.training.data.rows import Row
from vllm_mtp.training.ranks import AnyByNow, Ranks, _share_of_gpus

CONFIG = TrainConfig(tokens=6 * STEP, checkpoint_every=3, single_step_fraction=0.4, **TINY)
LM = TrainConfig(tokens=3 * STEP, objective="lm", **TINY)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_target(tmp_path_factory.mktemp("target") / "tiny", tied=True)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of unequal length, so that parts count unequal numbers of positions."""
    path = tmp_path_factory.mktemp("data") / "text.jsonl"
    lines = (SENTENCE[: 14 + 3 * number % 60] for number in range(120))
    path.write_text("".join(f'{{"text": "{line}"}}\n' for line in lines), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def alone(target: Path, text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("alone") / "draft"
    run_train(CONFIG, target, text, output)
    return output


def same_but_for_rounding(found: Path, expected: Path) -> None:
    for one, other in zip(curve(found), curve(expected), strict=True):
        assert one == pytest.approx(other, rel=2e-4, abs=2e-4)
    tensors, others = load_draft(found)[1], load_draft(expected)[1]
    for name in others:
        torch.testing.assert_close(tensors[name].float(), others[name].float(), rtol=0.05, atol=5e-3)


def test_parts_of_a_batch_have_every_row_once() -> None:
    ids_BL = torch.arange(7)[:, None].repeat(1, 3)
    batch = Batch(ids_BL, ids_BL[:, 1:] >= 0, ids_BL[:, 1:] >= 0)
    for num_parts in range(1, 10):
        parts = [batch.rows(part).ids_BL[:, 0].tolist() for part in batch.parts(num_parts)]
        assert [row for part in parts for row in part] == list(range(7))
        assert len(parts) == min(num_parts, 7)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_an_interrupt_of_another_process_is_told_a_step_later_or_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a device that is not to be waited for: catches one that nobody hears of, in the last step."""
    answers = iter([False, True, False, True])
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda *_: None)
    monkeypatch.setattr(ranks, "on_the_way", lambda _: partial(dict, any=torch.tensor(next(answers))))
    by_now = AnyByNow(Ranks(size=2), torch.device("meta"))
    assert [by_now(False, is_end=False) for _ in range(3)] == [False, False, True]
    assert by_now(False, is_end=True)


def test_processes_that_get_no_row_are_told_of() -> None:
    """Catches six GPUs of eight that add zeros."""
    said: list[str] = []
    rows = [Row.counted_from(torch.arange(length), 1) for length in (9, 17) for _ in range(60)]
    for size in (2, 4, 8):  # 8 rows of 8 tokens in a batch, 4 of 16
        run = SimpleNamespace(
            ranks=Ranks(size=size), batches=Batches([rows], 64, seed=0), inputs=SimpleNamespace(say=said.append)
        )
        loop._say_who_waits(run)  # type: ignore[arg-type]
    assert [line.partition(",")[0] for line in said] == ["68% of the steps have fewer rows than the 8 processes"]


@pytest.mark.parametrize("store", [False, True], ids=["in memory", "with a store"])
def test_parts_after_one_another(target: Path, text: Path, alone: Path, tmp_path: Path, store: bool) -> None:
    more: dict[str, Any] = {"store": tmp_path / "store"} if store else {}
    run_train(CONFIG, target, text, tmp_path / "draft", accumulate=3, **more)
    same_but_for_rounding(tmp_path / "draft", alone)


def test_parts_of_a_loss_that_leaves_tokens_out(target: Path, text: Path, tmp_path: Path) -> None:
    from vllm_mtp.training.data.draft_vocab import save_draft_vocab

    save_draft_vocab(tmp_path / "vocab.json", torch.arange(0, 260, 2), {})
    for number in (1, 3):
        run_train(LM, target, text, tmp_path / f"{number}", accumulate=number, draft_vocab=tmp_path / "vocab.json")
    same_but_for_rounding(tmp_path / "3", tmp_path / "1")


def two_processes(*words: str) -> tuple[list[str], dict[str, str]]:
    """The command line and environment of `vllm-mtp` in two processes of this machine."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return [*command, "-m", "vllm_mtp.cli", *words], os.environ | {"OMP_NUM_THREADS": "1"}


@pytest.mark.slow
def test_two_processes_are_one_run(target: Path, text: Path, alone: Path, tmp_path: Path) -> None:
    """Real ones, over gloo; the first checkpoint is gone on with by one process."""
    output, store = tmp_path / "draft", tmp_path / "store"
    words = ["train", str(target), "--data", str(text), "--output", str(output), "--store", str(store)]
    command, environment = two_processes(*words, "--device", "cpu", *words_of(CONFIG))
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert result.returncode == 0, result.stderr[-4000:]
    assert result.stdout.count("Serve it:") == 1
    same_but_for_rounding(output, alone)
    run_train(CONFIG, target, text, tmp_path / "again", store=store)
    assert not [name for name in files(tmp_path) if name.endswith(".tmp")]
    assert torch.equal(load_draft(tmp_path / "again")[1]["norm.weight"], load_draft(alone)[1]["norm.weight"])


@pytest.mark.slow
def test_torchrun_that_is_killed_outright_takes_its_processes_along(target: Path, text: Path, tmp_path: Path) -> None:
    """They would train on beside the same command typed again, into the same folder."""
    config = TrainConfig(tokens=300 * STEP, checkpoint_every=10, num_steps_unrolled=1, **TINY)
    output = tmp_path / "draft"
    words = [
        "train",
        str(target),
        "--data",
        str(text),
        "--output",
        str(output),
        "--device",
        "cpu",
        "--report-to",
        "jsonl",
    ]
    command, environment = two_processes(*words, *words_of(config))
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment) as first:
        deadline = time.monotonic() + 300
        while not [*output.glob("training/*.pt")] and time.monotonic() < deadline:
            time.sleep(0.01)
        first.send_signal(signal.SIGKILL)
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert result.returncode == 0, result.stderr[-4000:]
    assert "goes on after step" in result.stdout + result.stderr
    lines = (output / "log" / "steps.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [*range(1, 301)]


def test_train_and_generate_take_their_folder(
    target: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is loaded."""
    monkeypatch.setattr(claim, "_LONGEST_WAIT", 0.0)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("Hello")
    with claimed(tmp_path / "output", "output", pytest.fail):
        with pytest.raises(ValueError, match=r"^output: .* writes to "):
            run_train(CONFIG, target, text, tmp_path / "output")
        with pytest.raises(ValueError, match=r"^output: .* writes to "):
            generate(GenerateConfig(), target=str(target), prompts=[prompts], output=tmp_path / "output")


@pytest.mark.parametrize(
    ("own", "here", "size", "gpus", "expected"),
    [(1, 2, 2, 8, (1, "nccl")), (3, 4, 8, 4, (3, "nccl")), (1, 2, 2, 1, (0, "gloo")), (2, 3, 3, 2, (0, "gloo"))],
)
def test_each_process_has_a_gpu_or_shares_one(
    own: int, here: int, size: int, gpus: int, expected: tuple[int, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_RANK", str(own))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(here))
    assert _share_of_gpus(gpus, size) == expected


def test_a_launcher_that_does_not_say_how_many_are_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them must speak alike; one that shows each process its own GPU alone has that as the first."""
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert _share_of_gpus(1, 2) == (0, "nccl")
    assert _share_of_gpus(2, 2) == (1, "nccl")


def test_a_machine_of_several_with_too_few_gpus_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where others speak by nccl."""
    monkeypatch.setenv("LOCAL_RANK", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    with pytest.raises(ValueError, match=r"^device: expected a GPU for each process, found 4 on this machine for 8"):
        _share_of_gpus(4, 16)
