"""Checkpoints: the last two are kept, whole and on disk, and a damaged one is never gone on with.

Catches: a checkpoint lost with the one after it, zeros of a lost page taken for weights, a pickle that runs code, a
traceback where a line is due, half a file left by a full disk.
"""

import io
import json
import logging
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.faults import files_of_at_most
from vllm_mtp.training.checkpoint import Checkpoint, load_checkpoint, load_run_info, remove_checkpoint, save_checkpoint
from vllm_mtp.training.record import Entry, RunIdentity

IDENTITY = RunIdentity(
    config={"seed": 0}, target={"name": "t"}, target_weights_sha256="a", data_sha256="b", draft_vocab_sha256=None,
    draft_vocab_size=None, initial_sha256=None, dtype="float32",
)  # fmt: skip


def checkpoint(step: int) -> Checkpoint:
    log = [Entry(step=i + 1, loss=0.5, agreement_per_position=[0.25]) for i in range(step)]
    module = {"weight": torch.full((300,), float(step))}
    return Checkpoint(step=step, log=log, module=module, optimizers=[{"state": {}}], identity=IDENTITY)


def save(folder: Path, *steps: int) -> list[Path]:
    """Saves checkpoints after these steps; what is kept of them, the last one last."""
    for step in steps:
        save_checkpoint(folder, checkpoint(step))
    return sorted((folder / "training").iterdir())


def test_the_last_two_are_kept(tmp_path: Path) -> None:
    paths = save(tmp_path, 90, 95, 100)
    assert [path.name for path in paths] == ["checkpoint-00000095.pt", "checkpoint-00000100.pt"]
    found = load_checkpoint(tmp_path)
    assert found is not None
    assert (found.step, found.log, found.identity) == (100, checkpoint(100).log, IDENTITY)
    remove_checkpoint(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert load_checkpoint(tmp_path) is None


class Runs:
    """Runs code where it is unpickled without care."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("was_run"),))


def torch_bytes(value: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def zip_bytes() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a", "b")
    return file.getvalue()


def with_zeros(whole: bytes) -> bytes:
    """A page that never reached the disk: torch.load reads weights of 0."""
    start = whole.index(torch.full((300,), 10.0).numpy().tobytes())
    return whole[:start] + bytes(600) + whole[start + 600 :]


DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda whole: b"", "it is empty"),
    "cut": (lambda whole: whole[: len(whole) // 2], "it is cut, or something else"),
    "one byte short": (lambda whole: whole[:-1], "it is cut, or something else"),
    "garbage": (lambda whole: bytes(range(256)) * 9, "it is cut, or something else"),
    "zeros inside": (with_zeros, "is not what was written"),
    "a bare pickle": (lambda whole: pickle.dumps(Runs()), "it is cut, or something else"),
    "a pickle that runs code": (lambda whole: torch_bytes(Runs()), "it holds what no checkpoint does"),
    "another archive": (lambda whole: zip_bytes(), "it is no checkpoint: "),
    "something else of torch's": (lambda whole: torch_bytes([1, 2]), "it is no checkpoint: TypeError"),
    "no log": (lambda whole: torch_bytes({"step": 10, "module": {}}), "it is no checkpoint: KeyError: 'log'"),
}


@pytest.mark.parametrize(("damage", "said"), DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_one_is_named_and_passed_over(
    damage: Callable[[bytes], bytes], said: str, tmp_path: Path,
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    first, last = save(tmp_path, 5, 10)
    last.write_bytes(damage(last.read_bytes()))
    with caplog.at_level(logging.WARNING):
        found = load_checkpoint(tmp_path)
    assert found is not None
    assert found.step == 5
    [line] = caplog.messages
    assert line.startswith(f"{last} is damaged (")
    assert said in line
    assert "\n" not in line
    assert "weights_only" not in line
    assert not (tmp_path / "was_run").exists()
    # The next one takes its place, and the good one stays.
    assert save(tmp_path, 10) == [first, last]
    assert load_checkpoint(tmp_path).step == 10  # type: ignore[union-attr]


def test_all_damaged_is_an_error(tmp_path: Path) -> None:
    first, last = save(tmp_path, 5, 10)
    first.write_bytes(b"")
    last.write_bytes(b"x")
    with pytest.raises(
        ValueError, match=rf"^output: {last} is .*; {first} is damaged .it is empty.\. .* delete .*training"
    ):
        load_checkpoint(tmp_path)
    assert [first.read_bytes(), last.read_bytes()] == [b"", b"x"]


def test_one_of_an_earlier_version_is_the_oldest(tmp_path: Path) -> None:
    [path] = save(tmp_path, 5)
    path.rename(path.with_name("checkpoint.pt"))
    assert load_checkpoint(tmp_path).step == 5  # type: ignore[union-attr]
    assert [path.name for path in save(tmp_path, 10)] == ["checkpoint-00000010.pt", "checkpoint.pt"]
    assert load_checkpoint(tmp_path).step == 10  # type: ignore[union-attr]
    assert [path.name for path in save(tmp_path, 15)] == ["checkpoint-00000010.pt", "checkpoint-00000015.pt"]


def test_a_full_disk_keeps_what_was_there(tmp_path: Path) -> None:
    before = save(tmp_path, 5, 10)
    with files_of_at_most(1500), pytest.raises(ValueError, match=r"^output: a checkpoint cannot be written to .*MiB"):
        save(tmp_path, 15)
    assert sorted((tmp_path / "training").iterdir()) == before
    assert load_checkpoint(tmp_path).step == 10  # type: ignore[union-attr]


def test_a_damaged_run_info_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    (tmp_path / "run_info.json").write_text('{"config": ')
    with pytest.raises(ValueError, match=r"^output: .*run_info\.json is not valid JSON.* give another folder"):
        load_run_info(tmp_path)
    save(tmp_path, 5)
    assert load_run_info(tmp_path) is None, "there is a checkpoint to go on from"


@pytest.mark.parametrize("field", ["config", "target"])
def test_a_run_info_of_another_shape_is_not_a_run(field: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    info = {"config": {}, "target": {"name": "t"}, "data_sha256": "0", "held_out": None}
    (tmp_path / "run_info.json").write_text(json.dumps(info))
    assert load_run_info(tmp_path) == info
    (tmp_path / "run_info.json").write_text(json.dumps(info | {field: []}))
    with pytest.raises(ValueError, match=r"^output: .* did not write"):
        load_run_info(tmp_path)


@pytest.mark.parametrize("name", ["README.md", "run_info.json"])
def test_files_of_something_else_are_not_replaced(name: str, tmp_path: Path) -> None:
    """Notes, or what `generate` wrote. An unfinished run may have written its card already."""
    (tmp_path / name).write_text("{}")
    with pytest.raises(ValueError, match=rf"^output: .* holds a {name} of something else"):
        load_run_info(tmp_path)
    save(tmp_path, 1)
    assert load_run_info(tmp_path) is None
