"""What the frozen target says of each batch, made once: its hidden states and, for the KL loss, the teacher.

Kept in memory while the data repeats and it fits, or on disk (`store`), where every further run on the same
rows finds it, held-out rows too. A stored batch is a safetensors file named by the hash of its rows, in a folder named
by target, dtype and draft vocabulary: read through a memory map, written whole or not at all, never out of date. It has
the teacher of every position, so that runs which count all of the text and runs which count the answers share it; one
that needs no teacher takes it from there too, and makes batches without, which are made again where one is needed.
"""

# Shapes: B sequences, S tokens, D hidden size, N teacher rows.

import errno
import hashlib
import logging
import shutil
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from vllm_mtp.common.errors import InputError
from vllm_mtp.common.files import remove_leftovers, write_atomically
from vllm_mtp.kernels.ops import Teacher
from vllm_mtp.module.shared_head import SharedHead
from vllm_mtp.training.data.batches import Batch, Batches
from vllm_mtp.training.frozen.ahead import Ahead
from vllm_mtp.training.frozen.reading import BatchStates, Content, Elsewhere, Reading
from vllm_mtp.training.frozen.target import FrozenTarget
from vllm_mtp.training.loss.objective import teacher_rows
from vllm_mtp.training.ranks import Ranks
from vllm_mtp.training.transfer import begins_on, pinned, to_device

logger = logging.getLogger(__name__)

MAX_KEPT_BYTES = 4 * 2**30


class _Stored(NamedTuple):
    """What the store has of a batch."""

    whole: BatchStates
    """Mapped from its file."""
    own: dict[tuple[int, int], BatchStates]
    """The parts that this process trains on, by start and stop; for a GPU in pinned memory."""


class TargetStates:
    """The target's side of a batch by index.

    Args:
        target: the frozen target.
        batches: what is trained on.
        num_steps: steps of the run, which decide whether the data repeats, and which batches are asked for.
        head: the head that the loss uses.
        with_teacher: compute the teacher for the mean-embedding loss too.
        store: folder to keep everything in; None: in memory, where the data repeats and it fits.
        draft_ids_J: the draft vocabulary, which the teacher depends on.
        held_out: batches that are measured besides, whose hidden states the store keeps too.
        ranks: the processes that fill the store together, and share every batch's parts.
        num_parts: that a batch is computed in, over all processes.
        elsewhere: workers on a cluster that fill it instead.
        room_besides: bytes that the run writes to the store's disk itself.
    """

    def __init__(
        self,
        target: FrozenTarget,
        batches: Batches,
        num_steps: int,
        *,
        head: SharedHead,
        with_teacher: bool,
        store: Path | None = None,
        draft_ids_J: Tensor | None = None,
        held_out: Sequence[Batch] = (),
        ranks: Ranks | None = None,
        num_parts: int = 1,
        elsewhere: Elsewhere | None = None,
        room_besides: int = 0,
    ) -> None:
        self._target, self._batches, self._with_teacher = target, batches, with_teacher
        self._reading = Reading(target=target, head=head, with_teacher=with_teacher)
        self._elsewhere, self._room_besides = elsewhere, room_besides
        self._held_out, self._ranks, self._num_parts = held_out, ranks or Ranks(), num_parts
        self._visited = batches.visited(num_steps)
        self._kept: dict[tuple[int, int, int], BatchStates] | None = None
        self._folder: Path | None = None
        self._ahead = Ahead(self._read, begins_on(target.device))
        num_bytes = batches.num_tokens * self.bytes_per_token
        if store is not None:
            vocabulary = (
                "all" if draft_ids_J is None else hashlib.sha256(draft_ids_J.numpy().tobytes()).hexdigest()[:12]
            )
            fingerprint = {name: value for name, value in target.fingerprint().items() if name != "name"}
            identity = "-".join(
                str(value) for value in (*sorted(fingerprint.items()), target.weights_sha256, vocabulary)
            )
            identity += target.computed_by
            if target.dtype.itemsize < 4 and not target.computed_by:  # earlier versions rounded the angles of positions
                identity += "-exact angles"
            # "True": as in the names of earlier versions' folders in which every batch has its teacher.
            name = hashlib.sha256(f"{identity}-True".encode()).hexdigest()[:12]
            self._folder = store / f"{target.dtype_name}-{name}"
            self._folder.mkdir(parents=True, exist_ok=True)
        elif num_steps > len(batches):
            if num_bytes <= MAX_KEPT_BYTES:
                self._kept = {}
            else:
                logger.warning(
                    "The data repeats, but what the target says of it would need %.1f GiB of memory, more than %.0f: "
                    "the target runs in every epoch. A store keeps it on disk, fewer data_tokens read less.",
                    num_bytes / 2**30,
                    MAX_KEPT_BYTES / 2**30,
                )

    @property
    def bytes_per_token(self) -> int:
        """What is kept of one token: hidden states, and mean embedding, constant and top token of the teacher."""
        hidden_size = self._target.config.hidden_size
        return int(hidden_size * self._target.dtype.itemsize + self._with_teacher * (2 * hidden_size + 8))

    def fill(self, show_progress: bool) -> float | None:
        """Runs the target over every batch of the run that the store does not have yet, each in one of the processes.

        Returns:
            Tokens per second, or None where there was nothing to do or there is no store.

        Raises:
            ValueError: if the disk has too little room.
        """
        if self._folder is None:
            return None
        remove_leftovers(self._folder)
        rate = self._make_missing(show_progress)
        self._ranks.wait()
        return rate

    def _make_missing(self, show_progress: bool) -> float | None:
        assert self._folder is not None
        batches = [*(self._batches[index] for index in self._visited), *self._held_out]
        lacking = {self._path(batch).name: batch for batch in batches}
        lacking = {name: batch for name, batch in lacking.items() if not self._has(batch)}
        self._ranks.wait()  # before the first of them writes: all share out the same
        missing = dict(self._mine([*lacking.items()]))
        if not missing:
            return None
        self._check_many_processes()
        self._check_room(self._num_bytes(lacking.values()))
        if show_progress:
            num_mib = self._num_bytes(missing.values()) / 2**20
            tqdm.write(f"the target runs over {len(missing)} batches: {num_mib:,.0f} MiB in {self._folder}")
        started, num_tokens = time.perf_counter(), 0
        bar = tqdm(total=len(missing), desc="target", unit="batch", disable=not show_progress, mininterval=5)
        disk = ThreadPoolExecutor(1, initializer=begins_on(self._target.device))
        with bar, disk, (self._elsewhere or self._reading).readers() as (workers, work):
            written: Future[None] | None = None
            for name, content in workers.results(work, missing):
                if written is not None:  # one batch is made bytes and goes to disk while the target runs over the next
                    written.result()
                written = disk.submit(self._write, missing[name], content)
                num_tokens += missing[name].ids_BL.numel()
                bar.set_postfix(tokens_per_s=f"{num_tokens / (time.perf_counter() - started):.0f}", refresh=False)
                bar.update()
                if self._ranks.is_left_alone:
                    raise SystemExit(128 + signal.SIGTERM)  # what is stored stays
            if written is not None:
                written.result()
        return num_tokens / (time.perf_counter() - started)

    def _num_bytes(self, batches: Iterable[Batch]) -> int:
        return sum(batch.text_BS.numel() for batch in batches) * self.bytes_per_token

    def _check_room(self, num_bytes: int) -> None:
        """Refuses what the disk cannot take, of all processes together, beside what else the run writes there."""
        assert self._folder is not None
        free = shutil.disk_usage(self._folder).free
        if num_bytes + self._room_besides > 0.95 * free:
            besides = f" and {self._room_besides / 2**30:.1f} for checkpoints" if self._room_besides else ""
            raise InputError(
                "store",
                f"expected room for {num_bytes / 2**30:.1f} GiB{besides} in {self._folder}, found {free / 2**30:.1f}. "
                "Give another folder, or fewer data_tokens.",
            )

    def _mine(self, batches: Sequence[tuple[str, Batch]]) -> list[tuple[str, Batch]]:
        """What this process makes or, for the first one, has made elsewhere."""
        if self._elsewhere is None:
            return self._ranks.mine(batches)
        return list(batches) if self._ranks.is_first else []

    def _check_many_processes(self) -> None:
        if self._ranks.size > 1 and self._target.computed_by and self._elsewhere is None:
            raise InputError(
                "store",
                "expected the hidden states of vLLM there already: give the same command to one process first, until "
                "its first step, or a Ray cluster (--ray); vLLM itself takes several GPUs (--tensor-parallel-size)",
            )

    def __call__(self, index: int, part: slice | None = None) -> BatchStates:
        """The target's side of a batch, on the target's device.

        Args:
            index: of the batch.
            part: of its rows (`Batch.parts`); None: all of them.
        """
        whole = self._batches[index]
        part = part or slice(0, len(whole.ids_BL))
        batch = whole.rows(part)
        if self._folder is not None:
            stored = self._ahead(index)
            if stored is None:
                stored = self._with_own(whole, self._made(whole))
                self._ahead.keep(index, stored)
            states = stored.own.get((part.start, part.stop)) or _cut(stored.whole, whole, part)
            return _counted(_moved(states, self._target.device), batch)
        if self._kept is None:
            return self._reading.states(batch, batch.mask_BS)
        key = (index, part.start, part.stop)
        if key not in self._kept:
            states = self._reading.states(batch, batch.mask_BS)
            self._kept[key] = _on_host(states, self._target.device)
            return states
        return _moved(self._kept[key], self._target.device)

    def hidden_of(self, index: int, part: slice) -> Tensor:
        """Hidden states of a batch by index, [B, S, D]; the teacher is computed where it is kept for the steps.

        Args:
            index, part: as for a call.
        """
        if self._folder is None and self._kept is None:
            return self._target.hidden_states(self._batches[index].rows(part).ids_BL[:, :-1])
        return self(index, part).hidden_BSD

    def start(self, index: int) -> None:
        """Begins to read a batch's side from the store, for a later call."""
        if self._folder is not None:
            self._ahead.start(index)

    def _read(self, index: int) -> _Stored | None:
        """A batch's side on the host, None where the store lacks it."""
        batch = self._batches[index]
        return self._with_own(batch, self._load(self._path(batch))) if self._has(batch) else None

    def _with_own(self, batch: Batch, whole: BatchStates) -> _Stored:
        """With what this process trains on at hand; the rest of the file is not read."""
        parts = self._ranks.mine(batch.parts(self._num_parts))
        cut = {(part.start, part.stop): _cut(whole, batch, part) for part in parts}
        return _Stored(whole, {key: _on_host(states, self._target.device) for key, states in cut.items()})

    def hidden(self, batch: Batch, part: slice) -> Tensor:
        """Hidden states of some rows of any batch, [B, S, D], from the store where there is one."""
        if self._folder is None:
            return self._target.hidden_states(batch.rows(part).ids_BL[:, :-1])
        return to_device(self._stored(batch).hidden_BSD[part], self._target.device)

    def _stored(self, batch: Batch) -> BatchStates:
        """What the store has of a batch, on the host, made where it has nothing."""
        return self._load(self._path(batch)) if self._has(batch) else self._made(batch)

    def _made(self, batch: Batch) -> BatchStates:
        """What the store has of a batch from now on."""
        with self._reading.opened() as content:
            self._write(batch, content(batch))
        return self._load(self._path(batch))

    def _path(self, batch: Batch) -> Path:
        assert self._folder is not None
        digest = hashlib.sha256(str(tuple(batch.ids_BL.shape)).encode())
        for tensor in (batch.ids_BL.int(), batch.text_BS):
            digest.update(tensor.numpy().tobytes())
        return self._folder / f"{digest.hexdigest()[:24]}.safetensors"

    def _has(self, batch: Batch) -> bool:
        """Whether the store has all that is needed of a batch, whole; a damaged file is named."""
        fault = self._fault(batch)
        if fault:
            logger.warning("%s is damaged (%s): it is made again", self._path(batch), fault)
        return fault is None

    def _fault(self, batch: Batch) -> str | None:
        """What is wrong with what the store has of a batch; empty where it lacks something, None where all is well."""
        from safetensors import SafetensorError, safe_open

        path = self._path(batch)
        if not path.exists():
            return ""
        try:
            with safe_open(str(path), framework="pt") as file:
                shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
        except (SafetensorError, OSError) as error:
            return str(error)
        whole = self._shapes(batch)
        if shapes == {"hidden": whole["hidden"]}:
            return "" if self._with_teacher else None
        return None if shapes == whole else "its tensors are not those of this batch"

    def _shapes(self, batch: Batch) -> dict[str, tuple[int, ...]]:
        """Names and shapes of all that the store can have of a batch."""
        hidden_size = self._target.config.hidden_size
        hidden = {"hidden": (*batch.text_BS.shape, hidden_size)}
        num_rows = len(teacher_rows(batch.text_BS))
        return hidden | {"mean": (num_rows, hidden_size), "constant": (num_rows,), "top": (num_rows,)}

    def _write(self, batch: Batch, content: Content) -> None:
        """Writes what nobody else has written meanwhile: another run may have made it, with the teacher."""
        if self._fault(batch) is None:
            return
        path = self._path(batch)
        try:
            write_atomically(path, content(), shared=True)
        except OSError as error:
            when = "when there is room" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "once it can be written"
            raise InputError("store", f"{error}. The same command goes on {when}.") from error

    def _load(self, path: Path) -> BatchStates:
        """A stored batch, mapped from its file."""
        from safetensors import safe_open

        with safe_open(str(path), framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        teacher = None
        if self._with_teacher:
            teacher = Teacher(tensors["mean"], tensors["constant"], tensors["top"].long())
        return BatchStates(tensors["hidden"], teacher)


def _cut(states: BatchStates, batch: Batch, part: slice) -> BatchStates:
    """What was stored of a batch, of some of its rows."""
    if part.stop - part.start == len(batch.ids_BL):
        return states
    teacher = states.teacher
    if teacher is not None:
        first, num = (len(teacher_rows(batch.text_BS[rows])) for rows in (slice(0, part.start), part))
        teacher = Teacher(*(tensor[first : first + num] for tensor in teacher))
    return BatchStates(states.hidden_BSD[part], teacher)


def _counted(states: BatchStates, batch: Batch) -> BatchStates:
    """The teacher at the positions that count, out of a stored one at all of them."""
    if states.teacher is None or torch.equal(batch.mask_BS, batch.text_BS):
        return states
    counts_N = batch.mask_BS.flatten()[teacher_rows(batch.text_BS)]
    places_M = to_device(counts_N.nonzero().flatten(), states.hidden_BSD.device)
    return BatchStates(states.hidden_BSD, Teacher(*(tensor.index_select(0, places_M) for tensor in states.teacher)))


def _moved(states: BatchStates, device: torch.device) -> BatchStates:
    return _each(states, lambda tensor: to_device(tensor, device))


def _on_host(states: BatchStates, device: torch.device) -> BatchStates:
    """In the host's memory, pinned where a GPU takes it from there."""
    states = _moved(states, torch.device("cpu"))
    return _each(states, pinned) if device.type == "cuda" else states


def _each(states: BatchStates, change: Callable[[Tensor], Tensor]) -> BatchStates:
    teacher = None if states.teacher is None else Teacher(*map(change, states.teacher))
    return BatchStates(change(states.hidden_BSD), teacher)
