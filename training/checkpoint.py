"""What a killed run needs to go on: module, optimizer states, step and log, in one file, written atomically."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vllm_mtp.common.errors import InputError
from vllm_mtp.contract.tensors import WEIGHTS_FILE
from vllm_mtp.training.config import TrainConfig
from vllm_mtp.training.record import Entry, RunIdentity

RUN_INFO = "run_info.json"
_FILE = "training/checkpoint.pt"


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


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Writes a checkpoint in place of the one before.

    Raises:
        OSError: for a full disk.
    """
    path = folder / _FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {
        "module": checkpoint.module,
        "optimizers": checkpoint.optimizers,
        "step": checkpoint.step,
        "log": [entry.to_stored() for entry in checkpoint.log],
        **asdict(checkpoint.identity),
    }
    try:
        torch.save(state, path.with_suffix(".tmp"))
    except RuntimeError as error:  # torch's for a full disk
        raise InputError("output", f"{path} cannot be written: {error}") from error
    os.replace(path.with_suffix(".tmp"), path)


def load_checkpoint(folder: Path) -> Checkpoint | None:
    """The last checkpoint of an unfinished run, or None."""
    path = folder / _FILE
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return Checkpoint(
        step=state["step"],
        log=[Entry.from_stored(entry) for entry in state["log"]],
        module=state["module"],
        optimizers=state["optimizers"],
        identity=RunIdentity.from_stored(state),
    )


def remove_checkpoint(folder: Path) -> None:
    path = folder / _FILE
    path.unlink(missing_ok=True)
    path.with_suffix(".tmp").unlink(missing_ok=True)
    if path.parent.is_dir() and not any(path.parent.iterdir()):
        path.parent.rmdir()


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
        return None
    info = json.loads(info_path.read_text(encoding="utf-8")) if info_path.exists() else None
    if isinstance(info, dict) and info.keys() >= {"config", "target", "data_sha256", "held_out"} and weights.exists():
        return info
    if (folder / _FILE).exists():  # killed while it wrote the finished drafter
        return None
    raise InputError("output", f"{folder} holds a model that `vllm-mtp train` did not write. Give another folder.")


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
