"""A drafter's folder, written and read: config.json and model.safetensors."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllm_mtp.common.files import read_json, write_atomically
from vllm_mtp.contract.config import MTPConfig
from vllm_mtp.contract.lookup import Lookup
from vllm_mtp.contract.tensors import WEIGHTS_FILE, check_tensors, check_values

if TYPE_CHECKING:
    from torch import Tensor


def save_draft(folder: Path, config: MTPConfig, tensors: Mapping[str, "Tensor"]) -> None:
    """Writes config.json and model.safetensors, each complete or not at all.

    Raises:
        OSError: for a full disk or a read-only folder.
        ValueError: for tensors that break the contract.
    """
    from safetensors.torch import save

    check_tensors(tensors, config.tensor_shapes(), config.vocab_size, where="the module")
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "config.json", json.dumps(config.contract(), indent=2) + "\n")
    # Not by safetensors itself: its files can be read by their owner alone, and a full disk leaves half of one behind.
    content = save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata={"format": "pt"})
    write_atomically(folder / WEIGHTS_FILE, content)


def load_draft(folder: Path) -> tuple[MTPConfig, dict[str, "Tensor"]]:
    """Reads and checks a drafter.

    Returns:
        The config and every tensor by name, as stored.

    Raises:
        ValueError: if the folder or one of its files is missing, damaged or breaks the contract.
    """
    from safetensors.torch import load_file

    fields = read_config(folder)
    config: MTPConfig = MTPConfig.from_dict(fields, name_or_path=str(folder))
    tensors = load_file(folder / WEIGHTS_FILE)
    check_values(tensors, config.vocab_size, where=str(folder / WEIGHTS_FILE))
    return config, tensors


def read_config(folder: Path) -> dict[str, Any]:
    """The fields of a drafter's config.json, which the contract is not asked about.

    Raises:
        ValueError: if there is none, or it is not that of an MTP drafter.
    """
    config_path = folder / "config.json"
    if not config_path.is_file():
        raise ValueError(f"{folder}: expected a drafter's folder with config.json and {WEIGHTS_FILE}, found no config.")
    fields = read_json(config_path)
    if not isinstance(fields, dict):
        raise ValueError(f"{config_path}: expected a JSON object, got {type(fields).__name__}.")
    if fields.get("model_type") != MTPConfig.model_type:
        raise ValueError(f"{config_path}: expected model_type 'mtp', got {fields.get('model_type')!r}.")
    return fields


def write_lookup(folder: Path, lookup: Lookup | None) -> None:
    """Rewrites a drafter's config.json with these settings of lookup, whatever it had; None: without lookup.

    Raises:
        ValueError: if the folder is not that of a drafter, or config.json breaks the contract elsewhere.
    """
    fields = read_config(folder)
    fields.pop("lookup", None)
    if lookup is not None:
        fields["lookup"] = lookup.fields()
    MTPConfig.from_dict(dict(fields), name_or_path=str(folder))
    write_atomically(folder / "config.json", json.dumps(fields, indent=2) + "\n")
