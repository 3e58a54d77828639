"""What a killed run needs to go on: module, optimiser states, step and log, in one file, written atomically."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from vllm_mtp.common.errors import InputError
from vllm_mtp.contract.tensors import WEIGHTS_FILE
from vllm_mtp.module.mtp import MTPModule
from vllm_mtp.training.config import TrainConfig

RUN_INFO = "run_info.json"
_FILE = "training/checkpoint.pt"


def save_checkpoint(
    folder: Path,
    module: MTPModule,
    optimizers: list[torch.optim.Optimizer],
    step: int,
    log: list[dict[str, Any]],
    run: Mapping[str, Any],
) -> None:
    """Writes the state after a step; `run` is what `check_same_run` compares, and the dtype."""
    path = folder / _FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {
        "module": module.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "step": step,
        "log": log,
        **run,
    }
    try:
        torch.save(state, path.with_suffix(".tmp"))
    except RuntimeError as error:  # torch's for a full disk
        raise InputError("output", f"{path} cannot be written: {error}") from error
    os.replace(path.with_suffix(".tmp"), path)


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """The last checkpoint of an unfinished run, or None."""
    path = folder / _FILE
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


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


def check_same_run(stored: Mapping[str, Any], folder: Path, config: TrainConfig, run: Mapping[str, Any]) -> None:
    """Compares what a folder's run was made from with what is asked for now.

    Raises:
        ValueError: naming everything that differs.
    """
    differences = config.differences(stored["config"])
    if stored["target"] != run["target"]:
        names = f"{stored['target']['name']!r}, now {run['target']['name']!r}"
        differences.append(f"target: {names} (or other weights of that name)")
    elif stored.get("target_weights_sha256", run["target_weights_sha256"]) != run["target_weights_sha256"]:
        differences.append(f"target: other weights of {run['target']['name']!r}")
    for name, what in (("data", "text"), ("draft_vocab", "tokens"), ("initial", "weights")):
        if stored.get(f"{name}_sha256") != run[f"{name}_sha256"]:
            differences.append(f"{name}: other {what}")
    if differences:
        state = "an unfinished run" if "module" in stored else "a finished drafter"
        raise InputError(
            "output",
            f"{folder} holds {state} with another config ({'; '.join(differences)}). "
            "Repeat its settings to go on with it, give another output, or delete the folder to start anew.",
        )
