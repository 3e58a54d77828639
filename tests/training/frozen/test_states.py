"""What the target says of a batch: computed once, kept in memory or on disk, the same wherever it comes from.

Catches: a target that runs in every epoch, a store that serves other rows, another target's or another draft
vocabulary's states, a killed run's half a file taken for whole, a full disk found after hours.
"""

import errno
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save

from tests.faults import files_of_at_most
from vllm_mtp.module.shared_head import SharedHead
from vllm_mtp.training.data.batches import Batches
from vllm_mtp.training.data.rows import Row
from vllm_mtp.training.frozen import reading
from vllm_mtp.training.frozen import states as target_states
from vllm_mtp.training.frozen.states import TargetStates
from vllm_mtp.training.loss.mean_embedding import teacher_of
from vllm_mtp.training.ranks import Ranks

V, D = 40, 4


class CountingTarget:
    """Stands in for a target whose hidden states are made of its token ids."""

    def __init__(self, name: str = "one", weights_sha256: str = "a") -> None:
        table_VD = torch.randn(V, D, generator=torch.Generator().manual_seed(0))
        self.head = SharedHead(embedding_VD=table_VD, head_VD=table_VD)
        self.config = SimpleNamespace(hidden_size=D)
        self.dtype, self.dtype_name, self.device = torch.float32, "float32", torch.device("cpu")
        self.name, self.weights_sha256, self.num_calls = name, weights_sha256, 0

    computed_by = ""

    @contextmanager
    def reading(self) -> Iterator[None]:
        yield

    def hidden_states(self, ids_BT: torch.Tensor) -> torch.Tensor:
        self.num_calls += 1
        return self.head.embed(ids_BT)

    def fingerprint(self) -> dict[str, Any]:
        return {"name": "whatever it is called", "weights_sha256": self.name}


def batches(first: int = 1, loss_from: int = 1) -> Batches:
    rows = [Row.counted_from(torch.full((5,), first + i, dtype=torch.int32), loss_from) for i in range(9)]
    return Batches([rows], 8, seed=0)


def states_of(target: CountingTarget, of: Batches, num_epochs: float = 3, **kwargs: Any) -> TargetStates:
    arguments: dict[str, Any] = {"head": target.head, "with_teacher": True} | kwargs
    return TargetStates(target, of, int(num_epochs * len(of)), **arguments)  # type: ignore[arg-type]


def all_of(states: TargetStates, of: Batches) -> list[torch.Tensor]:
    found = [states(index) for index in range(len(of))]
    return [tensor for one in found for tensor in (one.hidden_BSD, *(one.teacher or ()))]


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return len(one) == len(other) and all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(one, other))  # noqa: B905


def test_data_that_repeats_passes_the_target_once() -> None:
    target, of = CountingTarget(), batches()
    states = states_of(target, of)
    first = all_of(states, of)
    assert same(first, all_of(states, of))
    assert target.num_calls == len(of) == 4
    # A run that was killed makes them again, the very same.
    assert same(first, all_of(states_of(CountingTarget(), of, num_epochs=1), of))


def test_states_too_large_to_keep_are_made_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(target_states, "MAX_KEPT_BYTES", 100)
    target, of = CountingTarget(), batches()
    with caplog.at_level(logging.WARNING):
        states = states_of(target, of)
    all_of(states, of)
    all_of(states, of)
    assert target.num_calls == 2 * len(of)
    assert "A store keeps it on disk, fewer data_tokens" in caplog.text


def test_hidden_states_alone_cost_no_teacher_that_nobody_keeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same rows wherever they come from; where each step makes its own teacher, none is made here."""
    of = batches()
    teachers: list[Any] = []

    def counted(*args: Any) -> Any:
        teachers.append(args)
        return teacher_of(*args)

    monkeypatch.setattr(reading, "teacher_of", counted)
    part = slice(1, 2)
    ways: dict[str, dict[str, Any]] = {"once": {"num_epochs": 1}, "kept": {}, "stored": {"store": tmp_path}}
    for way, how in ways.items():
        target = CountingTarget()
        states = states_of(target, of, **how)
        for index in range(len(of)):
            expected_BSD = target.head.embed(of[index].ids_BL[part, :-1])
            assert torch.equal(states.hidden_of(index, part), expected_BSD)
        assert target.num_calls == len(of)
        assert len(teachers) == (0 if way == "once" else len(of))
        teachers.clear()


def test_what_no_step_takes_is_not_stored(tmp_path: Path) -> None:
    """Of four batches a run of two steps reads two; a longer one, over the same data, the others besides."""
    target, of = CountingTarget(), batches()
    states = states_of(target, of, num_epochs=0.5, store=tmp_path)
    states.fill(show_progress=False)
    for step in range(2):
        states(of.index(step))
    assert target.num_calls == 2 == len([*tmp_path.rglob("*.safetensors")])
    states_of(target, of, num_epochs=3, store=tmp_path).fill(show_progress=False)
    assert target.num_calls == len(of) == 4


def test_a_store_gives_what_the_target_gives(tmp_path: Path) -> None:
    target, of = CountingTarget(), batches()
    expected = all_of(states_of(CountingTarget(), of), of)
    states = states_of(target, of, store=tmp_path)
    assert states.fill(show_progress=False) is not None
    assert same(expected, all_of(states, of))
    again = states_of(target, of, store=tmp_path)
    assert again.fill(show_progress=False) is None
    assert same(expected, all_of(again, of))
    assert target.num_calls == len(of)


def test_answers_alone_share_the_store_of_the_whole_text(tmp_path: Path) -> None:
    target, of, answers = CountingTarget(), batches(), batches(loss_from=3)
    states_of(target, of, store=tmp_path).fill(show_progress=False)
    states = states_of(target, answers, store=tmp_path)
    assert states.fill(show_progress=False) is None
    assert target.num_calls == len(of)
    assert same(all_of(states, answers), all_of(states_of(CountingTarget(), answers), answers))
    for index in range(len(answers)):
        batch = answers[index]
        found, head = states(index), target.head
        expected = teacher_of(head.embed(batch.ids_BL[:, :-1])[batch.mask_BS], head)
        assert found.teacher is not None
        assert len(found.teacher.top_N) == 2 * len(batch.ids_BL)  # of four positions, those of tokens 3 and 4
        for tensor, right in zip(found.teacher, expected, strict=True):
            torch.testing.assert_close(tensor.to(right.dtype), right, rtol=2e-3, atol=2e-3)


def test_a_killed_run_makes_what_is_missing(tmp_path: Path) -> None:
    target, of = CountingTarget(), batches()
    states_of(target, of, store=tmp_path).fill(show_progress=False)
    [folder] = tmp_path.iterdir()
    first, *_ = sorted(folder.iterdir())
    first.rename(first.with_suffix(".tmp"))  # killed before the file was whole
    states_of(target, of, store=tmp_path).fill(show_progress=False)
    assert target.num_calls == len(of) + 1
    assert first.exists()


def test_other_rows_targets_and_vocabularies_are_kept_apart(tmp_path: Path) -> None:
    target = CountingTarget()
    states_of(target, batches(), store=tmp_path).fill(show_progress=False)
    num_calls = target.num_calls
    draft_ids_J = torch.tensor([1, 2, 30])
    for of, other, more in [
        (batches(first=20), target, {}),
        (batches(), CountingTarget("two"), {}),
        (batches(), CountingTarget(weights_sha256="b"), {}),
        (batches(), target, {"draft_ids_J": draft_ids_J, "head": target.head.cut(draft_ids_J)}),
    ]:
        states = states_of(other, of, store=tmp_path, **more)
        assert states.fill(show_progress=False) is not None
        assert same(all_of(states, of), all_of(states_of(CountingTarget(), of, **more), of))
    assert target.num_calls == 3 * num_calls


@pytest.mark.parametrize("first_has_teacher", [True, False])
def test_runs_with_a_teacher_and_without_share_a_store(
    first_has_teacher: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Catches a target that reads everything for each objective anew, and batches without a teacher taken for whole."""
    target, of = CountingTarget(), batches()
    for with_teacher in (first_has_teacher, not first_has_teacher):
        states = states_of(target, of, store=tmp_path, with_teacher=with_teacher)
        states.fill(show_progress=False)
        expected = states_of(CountingTarget(), of, with_teacher=with_teacher)
        assert same(all_of(states, of), all_of(expected, of))
    assert target.num_calls == len(of) * (1 if first_has_teacher else 2)
    assert not caplog.text
    assert len([*tmp_path.iterdir()]) == 1


def test_a_disk_that_is_too_small_is_found_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target_states.shutil, "disk_usage", lambda path: SimpleNamespace(free=100))
    target = CountingTarget()
    with pytest.raises(ValueError, match=r"^store: expected room for .* GiB in .*data_tokens"):
        states_of(target, batches(), store=tmp_path).fill(show_progress=False)
    assert target.num_calls == 0


def test_room_is_asked_for_all_processes_and_for_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two processes, each of which writes a half."""
    of = batches()
    half = of.num_tokens * states_of(CountingTarget(), of).bytes_per_token // 2
    monkeypatch.setattr(target_states.shutil, "disk_usage", lambda path: SimpleNamespace(free=int(2.2 * half)))
    monkeypatch.setattr(Ranks, "wait", lambda ranks: None)
    states_of(CountingTarget(), of, store=tmp_path / "enough", ranks=Ranks(size=2)).fill(show_progress=False)
    refused = pytest.raises(ValueError, match=r"^store: expected room for .* GiB and .* for checkpoints in .*, found ")
    more = {"room_besides": half, "ranks": Ranks(size=2)}
    with refused:
        states_of(CountingTarget(), of, store=tmp_path / "little", **more).fill(show_progress=False)
    monkeypatch.setattr(target_states.shutil, "disk_usage", lambda path: SimpleNamespace(free=int(1.2 * half)))
    with pytest.raises(ValueError, match=r"^store: expected room for "):
        states_of(CountingTarget(), of, store=tmp_path / "less", ranks=Ranks(size=2)).fill(show_progress=False)


def test_a_process_left_alone_stops_with_the_batch_at_hand(tmp_path: Path) -> None:
    """What is stored stays: the same command makes the rest."""
    of = batches()
    with pytest.raises(SystemExit):
        states_of(CountingTarget(), of, store=tmp_path, ranks=Ranks(parent=0)).fill(show_progress=False)
    target = CountingTarget()
    states_of(target, of, store=tmp_path).fill(show_progress=False)
    assert target.num_calls == len(of) - 1


def test_a_damaged_file_is_named_and_made_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Before training where it was damaged then, in the middle of it otherwise."""
    expected = all_of(states_of(CountingTarget(), batches()), batches())
    target, of = CountingTarget(), batches()
    states = states_of(target, of, store=tmp_path)
    states.fill(show_progress=False)
    paths = sorted(tmp_path.rglob("*.safetensors"))
    whole = [path.read_bytes() for path in paths]
    damages = [b"", whole[0][: len(whole[0]) // 2], b"garbage" * 50, save({"hidden": torch.zeros(2, 4, 5)})]
    for is_filled in (True, False):
        for path, damage in zip(paths, damages, strict=True):
            path.write_bytes(damage)
        caplog.clear()
        if is_filled:
            assert states.fill(show_progress=False) is not None
        assert same(expected, all_of(states, of))
        assert [path.read_bytes() for path in paths] == whole
        assert sum(f"{path} is damaged (" in caplog.text for path in paths) == 4
    assert target.num_calls == 3 * len(of)


def test_a_damaged_file_is_read_once_for_all_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    target, of = CountingTarget(), batches()
    states_of(target, of, store=tmp_path).fill(show_progress=False)
    for path in tmp_path.rglob("*.safetensors"):
        path.write_bytes(b"garbage" * 50)
    states, loaded = states_of(target, of, store=tmp_path), []
    load = states._load
    monkeypatch.setattr(states, "_load", lambda path: (loaded.append(path), load(path))[1])
    parts = of[0].parts(2)
    assert len(parts) == 2
    found = [states(0, part).hidden_BSD for part in parts]
    assert torch.equal(torch.cat(found), target.hidden_states(of[0].ids_BL[:, :-1]))
    assert len(loaded) == 1
    assert caplog.text.count("is damaged (") == 1


def test_each_process_pins_its_own_parts_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches eight GPUs of a machine that read and pin everything eight times."""
    target, of = CountingTarget(), batches()
    states_of(target, of, store=tmp_path).fill(show_progress=False)
    target.device, found = torch.device("cuda"), []  # as on a GPU, without its memory
    begun: list[torch.device] = []
    monkeypatch.setattr(target_states, "begins_on", lambda device: lambda: begun.append(device))
    monkeypatch.setattr(target_states, "to_device", lambda tensor, device: tensor)
    for rank in range(2):
        sizes: list[int] = []
        monkeypatch.setattr(target_states, "pinned", lambda tensor, sizes=sizes: (sizes.append(len(tensor)), tensor)[1])
        states = states_of(target, of, store=tmp_path, ranks=Ranks(rank=rank, size=2), num_parts=2)
        found += [states(0, part).hidden_BSD for part in of[0].parts(2)]
        assert sizes == [3, 3, 3, 1], "one row of the two, and its teacher at three positions"
    assert begun == [target.device] * 2, "in the thread of each"
    expected = [target.hidden_states(of[0].ids_BL[part, :-1]) for part in of[0].parts(2)]
    assert all(torch.equal(*pair) for pair in zip(found, expected * 2, strict=True))


def test_a_disk_that_fills_up_is_named(tmp_path: Path) -> None:
    """Catches half of a file, or a temporary one, that is left behind."""
    states = states_of(CountingTarget(), batches(), store=tmp_path)
    with files_of_at_most(100), pytest.raises(ValueError, match=r"^store: .*safetensors cannot be written: File too"):
        states.fill(show_progress=False)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(("number", "advice"), [(errno.ENOSPC, "there is room"), (errno.EIO, "it can be written")])
def test_room_is_spoken_of_where_it_is_wanting(
    number: int, advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    states = states_of(CountingTarget(), batches(), store=tmp_path)
    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(ValueError, match=rf"^store: .*{os.strerror(number)}\. The same command goes on .* {advice}"):
        states.fill(show_progress=False)


def test_the_target_does_not_wait_for_what_is_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a number that is read, or bytes that are made, before the next pass is asked for: the meta device has
    neither."""
    target, batch = CountingTarget(), batches()[0]
    target.device = torch.device("meta")
    target.head = SharedHead(embedding_VD=torch.empty(V, D, device="meta"), head_VD=torch.empty(V, D, device="meta"))
    monkeypatch.setattr(reading, "to_device", lambda tensor, device: tensor.to(device))
    monkeypatch.setattr(target, "hidden_states", lambda ids_BT: torch.empty(*ids_BT.shape, D, device="meta"))
    content = reading.Reading(target=target, head=target.head, with_teacher=True).content(batch)  # type: ignore[arg-type]
    with pytest.raises(NotImplementedError, match="meta"):
        content()


def test_two_runs_share_a_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a run that ends because another one wrote the same batch at the same time."""
    of, replace, others = batches(), os.replace, [states_of(CountingTarget(), batches(), store=tmp_path)]

    def at_the_same_time(*paths: Path) -> None:
        if others:
            others.pop().fill(show_progress=False)
        replace(*paths)

    monkeypatch.setattr(os, "replace", at_the_same_time)
    states = states_of(CountingTarget(), of, store=tmp_path)
    states.fill(show_progress=False)
    assert same(all_of(states, of), all_of(states_of(CountingTarget(), of), of))
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_target_that_gives_no_numbers_is_named(tmp_path: Path) -> None:
    """Catches NaN kept in the store for every further run."""
    target = CountingTarget()
    target.head.embedding_VD[3] = float("inf")
    with pytest.raises(ValueError, match=r"^dtype: .*hold NaN or infinity in float32"):
        states_of(target, batches(), store=tmp_path).fill(show_progress=False)
