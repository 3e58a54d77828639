"""What a killed run needs to go on: module, optimizer states, step and log, in one file for each of the last two
checkpoints. A file is whole and on disk before it counts; one that was damaged later is named and passed over.
"""

import logging
import os
import pickle
import shutil
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vllm_mtp.common.errors import InputError, is_out_of_memory
from vllm_mtp.common.files import read_json, replacing
from vllm_mtp.contract.tensors import WEIGHTS_FILE
from vllm_mtp.training.config import TrainConfig
from vllm_mtp.training.optimizers import numbers_kept
from vllm_mtp.training.record import RUN_INFO, Entry, RunIdentity

logger = logging.getLogger(__name__)

_FOLDER = "training"
_FILES = "checkpoint*.pt"
_KEPT = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Best:
    """The best module of a run so far."""

    step: int
    acceptance_length: float
    """Of the held-out rows that are measured on the way."""
    module: dict[str, Tensor]
    """State of the module."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """The state of a run after a step."""

    step: int
    log: list[Entry]
    module: dict[str, Tensor]
    """State of the module."""
    optimizers: list[dict[str, Any]]
    """State of each optimizer."""
    identity: RunIdentity
    best: Best | None = None
    """None where the last one is kept."""


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Writes a checkpoint, and then deletes all but the last two.

    Raises:
        OSError, ValueError: for a full disk or a read-only folder; the checkpoints before are as they were.
    """
    path = folder / _FOLDER / f"checkpoint-{checkpoint.step:08d}.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {
        "module": checkpoint.module,
        "optimizers": checkpoint.optimizers,
        "step": checkpoint.step,
        "log": [entry.to_stored() for entry in checkpoint.log],
        **asdict(checkpoint.identity),
    }
    if (best := checkpoint.best) is not None:
        state["best"] = {"step": best.step, "acceptance_length": best.acceptance_length, "module": best.module}
    with replacing(path) as temporary:
        _save(state, temporary)
    for older in _paths(folder)[_KEPT:]:
        older.unlink()


def room_for_checkpoints(folder: Path, num_parameters: int, config: TrainConfig) -> int:
    """Bytes that a run's checkpoints will take at most besides those that are there, the one being written included."""
    numbers = 1 + numbers_kept(config) + (config.keep == "best")
    return max(0, _KEPT + 1 - len(_paths(folder))) * 4 * numbers * num_parameters


def load_checkpoint(folder: Path) -> Checkpoint | None:
    """The last whole checkpoint of an unfinished run, or None; one line for each damaged one that is passed over.

    Raises:
        ValueError: if there are checkpoints and all of them are damaged.
    """
    faults = []
    for path in _paths(folder):
        try:
            checkpoint = _read(path)
        except _DamagedError as error:
            faults.append(f"{path} is damaged ({error})")
            continue
        for fault in faults:
            logger.warning("%s: passed over for %s", fault, path.name)
        return checkpoint
    if faults:
        raise InputError(
            "output",
            f"{'; '.join(faults)}. Restore one of these files to go on, or delete {folder / _FOLDER} to start anew.",
        )
    return None


def remove_checkpoint(folder: Path) -> None:
    """Deletes the checkpoints of a run, and what a killed one left of another."""
    for path in (*_paths(folder), *(folder / _FOLDER).glob(f"{_FILES}.tmp")):
        path.unlink(missing_ok=True)
    (folder / _FOLDER / "checkpoint.tmp").unlink(missing_ok=True)  # of earlier versions
    if (folder / _FOLDER).is_dir() and not any((folder / _FOLDER).iterdir()):
        (folder / _FOLDER).rmdir()


class _DamagedError(Exception):
    """Why a file is no checkpoint."""


def _paths(folder: Path) -> list[Path]:
    """Checkpoints, the last first; checkpoint.pt, which earlier versions wrote, after all others."""
    return sorted(
        (folder / _FOLDER).glob(_FILES), key=lambda path: (path.stem != "checkpoint", path.stem), reverse=True
    )


def _save(state: dict[str, Any], path: Path) -> None:
    try:
        torch.save(state, path)
    except RuntimeError as error:  # torch's for a full disk, and for much else
        free = shutil.disk_usage(path.parent).free / 2**20
        raise InputError(
            "output",
            f"a checkpoint cannot be written to {path.parent}, where {free:,.0f} MiB are free "
            f"({_first_line(error)}). The same command goes on when there is room.",
        ) from error


def _read(path: Path) -> Checkpoint:
    """A checkpoint, of whose bytes and objects nothing is believed before it is checked."""
    try:
        _check_archive(path)
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return Checkpoint(
            step=int(state["step"]),
            log=[Entry.from_stored(entry) for entry in state["log"]],
            module=dict(state["module"]),
            optimizers=list(state["optimizers"]),
            identity=RunIdentity.from_stored(state),
            best=Best(**state["best"]) if "best" in state else None,
        )
    except (PermissionError, _DamagedError):
        raise
    except pickle.UnpicklingError as error:  # what torch adds is advice to trust the file
        raise _DamagedError("it holds what no checkpoint does") from error
    except Exception as error:  # of zipfile, pickle and torch, of any kind where bytes are not what they should be
        if is_out_of_memory(error):
            raise
        raise _DamagedError(f"it is no checkpoint: {_first_line(error)}") from error


def _check_archive(path: Path) -> None:
    """Compares every part of the file with its checksum, which torch.load does not."""
    if not path.stat().st_size:
        raise _DamagedError("it is empty")
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except zipfile.BadZipFile as error:
        raise _DamagedError("it is cut, or something else") from error
    if broken is not None:
        raise _DamagedError(f"its part {broken} is not what was written")


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".strip().splitlines()[0][:120]


def load_run_info(folder: Path) -> dict[str, Any] | None:
    """run_info.json of a finished run, or None.

    Raises:
        ValueError: if the folder cannot be written to, or holds a model that is not a drafter of this program.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError("output", f"expected a folder, got {folder}, which is a file")
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise InputError("output", f"{folder} cannot be written to")
    weights, info_path = folder / WEIGHTS_FILE, folder / RUN_INFO
    if not weights.exists() and not (folder / "config.json").exists():
        other = next((name for name in ("README.md", RUN_INFO) if (folder / name).exists()), None)
        if other and not _paths(folder):
            raise InputError(
                "output",
                f"{folder} holds a {other} of something else, which would be replaced: give another folder",
            )
        return None
    try:
        info = read_json(info_path) if info_path.exists() else None
    except ValueError as error:
        info = None
        if not _paths(folder):
            raise InputError("output", f"{error}. Restore that file, or give another folder.") from error
    if _is_of_train(info) and weights.exists():
        return info
    if _paths(folder):  # killed while it wrote the finished drafter
        return None
    raise InputError("output", f"{folder} holds a model that `vllm-mtp train` did not write. Give another folder.")


def _is_of_train(info: Any) -> bool:
    """Whether this is the content of a run_info.json that `vllm-mtp train` wrote, of any version."""
    if not isinstance(info, dict) or not info.keys() >= {"config", "target", "data_sha256", "held_out"}:
        return False
    return isinstance(info["config"], dict) and isinstance(info["target"], dict) and "name" in info["target"]


def check_same_run(
    stored: RunIdentity, now: RunIdentity, *, config: TrainConfig, folder: Path, is_finished: bool
) -> None:
    """Compares what a folder's run was made from with what is asked for now.

    Args:
        stored: the folder's run.
        now: what is asked for.
        config: the settings of what is asked for.
        folder: where the stored run is.
        is_finished: whether it is.

    Raises:
        ValueError: naming everything that differs.
    """
    differences = config.differences(stored.config)
    if stored.target != now.target:
        names = f"{stored.target['name']!r}, now {now.target['name']!r}"
        differences.append(f"target: {names} (or other weights of that name)")
    elif stored.target_weights_sha256 not in (None, now.target_weights_sha256):
        differences.append(f"target: other weights of {now.target['name']!r}")
    if stored.data_sha256 != now.data_sha256:
        differences.append("data: other text")
    if stored.draft_vocab_sha256 != now.draft_vocab_sha256:
        differences.append("draft_vocab: other tokens")
    if stored.initial_sha256 != now.initial_sha256:
        differences.append("initial: other weights")
    if differences:
        state = "a finished drafter" if is_finished else "an unfinished run"
        raise InputError(
            "output",
            f"{folder} holds {state} with another config ({'; '.join(differences)}). "
            "Repeat its settings to go on with it, give another output, or delete the folder to start anew.",
        )
