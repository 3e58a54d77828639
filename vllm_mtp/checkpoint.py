"""A drafter's folder: which tensors it holds, how it is written, what is checked when it is read.

Headers are checked apart from values: a safetensors header costs a read of a few hundred bytes, so that a missing or
misshapen tensor is found before the target's weights are loaded.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllm_mtp.config import MTPConfig

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS_FILE = "model.safetensors"
_NUM_FINGERPRINT_ROWS = 4


def tensor_shapes(config: MTPConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of the checkpoint, in the order of the module."""
    hidden, mlp = config.hidden_size, config.intermediate_size
    query = config.num_attention_heads * config.head_dim
    key = config.num_key_value_heads * config.head_dim
    shapes: dict[str, tuple[int, ...]] = {
        "enorm.weight": (hidden,),
        "hnorm.weight": (hidden,),
        "eh_proj.weight": (hidden, 2 * hidden),
        "layer.input_layernorm.weight": (hidden,),
        "layer.self_attn.q_proj.weight": (query, hidden),
        "layer.self_attn.k_proj.weight": (key, hidden),
        "layer.self_attn.v_proj.weight": (key, hidden),
        "layer.self_attn.o_proj.weight": (hidden, query),
    }
    if config.attention_bias:
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            shapes[f"layer.self_attn.{name}.bias"] = shapes[f"layer.self_attn.{name}.weight"][:1]
    if config.qk_norm:
        shapes["layer.self_attn.q_norm.weight"] = (config.head_dim,)
        shapes["layer.self_attn.k_norm.weight"] = (config.head_dim,)
    return shapes | {
        "layer.post_attention_layernorm.weight": (hidden,),
        "layer.mlp.gate_proj.weight": (mlp, hidden),
        "layer.mlp.up_proj.weight": (mlp, hidden),
        "layer.mlp.down_proj.weight": (hidden, mlp),
        "norm.weight": (hidden,),
    }


def check_shapes(found: Mapping[str, tuple[int, ...]], config: MTPConfig, where: str) -> None:
    """Checks that a checkpoint holds exactly the module's tensors, in their shapes.

    Raises:
        ValueError: naming every missing, unexpected and misshapen tensor.
    """
    expected = tensor_shapes(config)
    faults = [f"missing {name}" for name in expected if name not in found]
    faults += [f"unexpected {name}" for name in found if name not in expected]
    for name in expected:
        if name in found and tuple(found[name]) != expected[name]:
            faults.append(f"{name} has shape {list(found[name])}, config.json says {list(expected[name])}")
    if faults:
        raise ValueError(f"{where} does not fit its config.json: {'; '.join(faults)}. Export the drafter again.")


def check_values(tensors: Iterable[tuple[str, "Tensor"]], where: str) -> None:
    """Checks that every value is finite.

    Raises:
        ValueError: naming the tensors that hold NaN or infinity.
    """
    import torch

    broken = [name for name, tensor in tensors if not torch.isfinite(tensor).all()]
    if broken:
        raise ValueError(f"{where} holds NaN or infinity in {', '.join(broken)}. Train or export the drafter again.")


def check_folder(folder: Path, config: MTPConfig) -> None:
    """Checks the folder's files by their headers: safetensors alone, complete, the right names and shapes.

    Raises:
        ValueError: if there is no model.safetensors, if it is damaged, if another weights file lies beside it, or
            if its tensors do not fit the config.
    """
    from safetensors import SafetensorError, safe_open

    path = folder / WEIGHTS_FILE
    if not path.is_file():
        raise ValueError(f"{folder}: expected the drafter's weights in {WEIGHTS_FILE}, found no such file.")
    others = [p.name for p in sorted(folder.iterdir()) if p.suffix in (".bin", ".pt", ".pth", ".safetensors")]
    others.remove(WEIGHTS_FILE)
    if others:
        raise ValueError(
            f"{folder}: expected {WEIGHTS_FILE} as the only weights file, found {', '.join(others)} beside it. "
            "Move it away: vLLM might load it instead, and a pickle can run code."
        )
    try:
        with safe_open(str(path), framework="pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}). Copy or export the drafter again.") from error
    check_shapes(shapes, config, where=str(path))


def save_draft(folder: Path, config: MTPConfig, tensors: Mapping[str, "Tensor"]) -> None:
    """Writes config.json and model.safetensors, each complete or not at all."""
    from safetensors.torch import save_file

    check_shapes({name: tuple(tensor.shape) for name, tensor in tensors.items()}, config, where="the module")
    check_values(tensors.items(), where="the module")
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "config.json", json.dumps(config.contract(), indent=2) + "\n")
    temporary = folder / f"{WEIGHTS_FILE}.tmp"
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary, metadata={"format": "pt"})
    os.replace(temporary, folder / WEIGHTS_FILE)


def load_draft(folder: Path) -> tuple[MTPConfig, dict[str, "Tensor"]]:
    """Reads and checks a drafter.

    Returns:
        The config and every tensor by name, as stored.

    Raises:
        ValueError: if the folder or one of its files is missing, damaged or breaks the contract.
    """
    from safetensors.torch import load_file

    config_path = folder / "config.json"
    if not config_path.is_file():
        raise ValueError(f"{folder}: expected a drafter's folder with config.json and {WEIGHTS_FILE}, found no config.")
    try:
        fields = json.loads(config_path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{config_path} is not valid JSON: {error}.") from error
    if not isinstance(fields, dict):
        raise ValueError(f"{config_path}: expected a JSON object, got {type(fields).__name__}.")
    if fields.get("model_type") != MTPConfig.model_type:
        raise ValueError(f"{config_path}: expected model_type 'mtp', got {fields.get('model_type')!r}.")
    config: MTPConfig = MTPConfig.from_dict(fields, name_or_path=str(folder))
    tensors = load_file(folder / WEIGHTS_FILE)
    check_values(tensors.items(), where=str(folder / WEIGHTS_FILE))
    return config, tensors


def write_atomically(path: Path, text: str) -> None:
    """Writes a text file so that a reader never sees half of it."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def tokenizer_sha256(vocabulary: Mapping[str, int]) -> str:
    """Hash of a tokenizer's (token, id) pairs; saving the tokenizer again does not change it."""
    return hashlib.sha256(json.dumps(sorted(vocabulary.items())).encode()).hexdigest()


def fingerprint_rows(vocab_size: int) -> list[int]:
    """The rows of embedding and head that stand for all weights of a target: evenly spaced, first and last included."""
    return [round(i * (vocab_size - 1) / (_NUM_FINGERPRINT_ROWS - 1)) for i in range(_NUM_FINGERPRINT_ROWS)]


def weights_sha256(embedding_rows: "Tensor", head_rows: "Tensor") -> str:
    """Hash of the rows `fingerprint_rows` of the target's embedding and head, [rows, H] each, rounded to bfloat16."""
    import torch

    digest = hashlib.sha256()
    for rows in (embedding_rows, head_rows):
        digest.update(rows.detach().to("cpu", torch.bfloat16).contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def target_fingerprint(
    *,
    name: str,
    architecture: str,
    hidden_size: int,
    vocab_size: int,
    vocabulary: Mapping[str, int],
    embedding_VD: "Tensor",
    head_VD: "Tensor",
) -> dict[str, Any]:
    """What identifies the target that a drafter belongs to; stored in config.json, compared when it is served."""
    rows = fingerprint_rows(vocab_size)
    return {
        "name": name,
        "architecture": architecture,
        "hidden_size": hidden_size,
        "vocab_size": vocab_size,
        "tokenizer_sha256": tokenizer_sha256(vocabulary),
        "weights_sha256": weights_sha256(embedding_VD[rows], head_VD[rows]),
    }
