"""Drafters made for tests: random weights in any shape, and every way in which a drafter's folder can be broken."""

# Shapes: J draft vocabulary.

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from vllm_mtp.contract.checkpoint import save_draft, write_lookup
from vllm_mtp.contract.config import MTPConfig
from vllm_mtp.contract.lookup import Lookup
from vllm_mtp.contract.tensors import D2T, WEIGHTS_FILE

LINEAR, NORM = "layer.mlp.down_proj.weight", "layer.input_layernorm.weight"


def small_config(**changes: Any) -> MTPConfig:
    """A valid config of a very small module."""
    fields = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "vocab_size": 50,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    }
    config: MTPConfig = MTPConfig.from_dict(fields | changes)
    return config


def config_for(target_dir: Path, **changes: Any) -> MTPConfig:
    """The config of a drafter in the shape of the target's own layers, without a fingerprint and without lookup."""
    from transformers import AutoConfig

    from vllm_mtp.training.config import TrainConfig
    from vllm_mtp.training.start.initial import draft_config_for

    fields = draft_config_for(AutoConfig.from_pretrained(target_dir), TrainConfig(), {}).contract()
    config: MTPConfig = MTPConfig.from_dict(fields | {"lookup": None} | changes)
    return config


def random_tensors(config: MTPConfig, seed: int = 0) -> dict[str, Tensor]:
    """Weights of a scale at which every part of the module matters, norms and biases included."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in config.tensor_shapes().items():
        if name == D2T:
            tensors[name] = d2t_of(torch.randperm(config.vocab_size, generator=generator)[: shape[0]].sort().values)
            continue
        values = torch.randn(shape, generator=generator)
        if len(shape) == 2:
            tensors[name] = values * shape[1] ** -0.5
        else:
            tensors[name] = 0.3 * values if name.endswith("bias") else 1 + 0.3 * values
    return tensors


def d2t_of(ids_J: Tensor) -> Tensor:
    """Offsets of a draft vocabulary, from its target ids in ascending order."""
    return ids_J - torch.arange(len(ids_J))


def with_draft_vocabulary(draft: Path, folder: Path, ids_J: Tensor) -> Path:
    """A copy of a drafter that drafts only these target ids."""
    shutil.copytree(draft, folder)
    _set_draft_vocabulary(folder, d2t_of(ids_J))
    return folder


def with_lookup(draft: Path, folder: Path, **settings: int) -> Path:
    """A copy of a drafter that copies where the text repeats itself; by default as `vllm-mtp train` writes it."""
    shutil.copytree(draft, folder)
    write_lookup(folder, Lookup(**settings))
    return folder


def write_random_draft(folder: Path, config: MTPConfig, seed: int = 0) -> Path:
    save_draft(folder, config, random_tensors(config, seed))
    return folder


def change_config(folder: Path, **changes: Any) -> None:
    """Rewrites fields of config.json; None deletes a field."""
    path = folder / "config.json"
    fields = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in fields.items() if value is not None}))


def change_tensors(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    """Rewrites model.safetensors."""
    tensors = load_file(folder / WEIGHTS_FILE)
    change(tensors)
    save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Damage:
    """One way to break a drafter's folder."""

    name: str
    inflict: Callable[[Path], object]
    """Breaks the valid drafter in a folder."""
    message: str
    """What the error says, as a regular expression."""


def _set(name: str, index: Any, value: float) -> Callable[[Path], None]:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors[name][index] = value

    return lambda folder: change_tensors(folder, change)


def _truncate(folder: Path, size: int) -> None:
    path = folder / WEIGHTS_FILE
    path.write_bytes(path.read_bytes()[:size])


def _pickle_instead(folder: Path) -> None:
    torch.save(load_file(folder / WEIGHTS_FILE), folder / "pytorch_model.bin")
    (folder / WEIGHTS_FILE).unlink()


def _set_draft_vocabulary(folder: Path, d2t_J: Tensor, size: int | None = None) -> None:
    """Stores `d2t`; `size` is what config.json says, by default its length."""
    change_config(folder, draft_vocab_size=size or len(d2t_J))
    change_tensors(folder, lambda tensors: tensors.update({D2T: d2t_J}))


def _draft_ids(*ids: int) -> Callable[[Path], None]:
    return lambda folder: _set_draft_vocabulary(folder, d2t_of(torch.tensor(ids)))


def _scaled_rope(folder: Path) -> None:
    change_config(folder, rope_parameters={"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0})


def _without_fields(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "mtp", "architectures": ["MTPDraftModel"]}')


# Config and headers: found before any weight, the target's or the drafter's, is loaded.
EARLY = [
    Damage(name="config without fields", inflict=_without_fields, message="missing hidden_size, intermediate_size"),
    Damage(
        name="config not JSON",
        inflict=lambda folder: (folder / "config.json").write_text("{"),
        message="not (a )?valid JSON",
    ),
    Damage(
        name="hidden states before the norm",
        inflict=lambda folder: change_config(folder, hidden_norm="pre"),
        message="hidden_norm must be 'post', got 'pre'",
    ),
    Damage(name="scaled RoPE", inflict=_scaled_rope, message="rope_type must be 'default', got 'yarn'"),
    Damage(
        name="other hidden size than the tensors",
        inflict=lambda folder: change_config(folder, hidden_size=8),
        message=r"enorm.weight has shape \[\d+\], config.json says \[8\]",
    ),
    Damage(
        name="missing linear tensor",
        inflict=lambda folder: change_tensors(folder, lambda tensors: tensors.pop(LINEAR)),
        message=f"missing {LINEAR}",
    ),
    Damage(
        name="missing norm tensor",
        inflict=lambda folder: change_tensors(folder, lambda tensors: tensors.pop(NORM)),
        message=f"missing {NORM}",
    ),
    Damage(
        name="extra tensor",
        inflict=lambda folder: change_tensors(folder, lambda tensors: tensors.update({"foo": torch.zeros(2)})),
        message="unexpected foo",
    ),
    Damage(
        name="extra bias",
        inflict=lambda folder: change_tensors(
            folder, lambda tensors: tensors.update({"layer.self_attn.q_proj.bias": torch.zeros(2)})
        ),
        message="unexpected layer.self_attn.q_proj.bias",
    ),
    Damage(
        name="lookup without a field of that name",
        inflict=lambda folder: change_config(folder, lookup={"min_length": 2}),
        message="lookup has no field 'min_length', only min_match, max_match, module_steps",
    ),
    Damage(
        name="draft vocabulary without d2t",
        inflict=lambda folder: change_config(folder, draft_vocab_size=8),
        message="missing d2t",
    ),
    Damage(
        name="d2t without a draft vocabulary",
        inflict=lambda folder: change_tensors(folder, lambda tensors: tensors.update({D2T: torch.zeros(8).long()})),
        message="unexpected d2t",
    ),
    Damage(
        name="d2t of another length",
        inflict=lambda folder: _set_draft_vocabulary(folder, torch.zeros(7).long(), size=8),
        message=r"d2t has shape \[7\], config.json says \[8\]",
    ),
    Damage(
        name="d2t of numbers",
        inflict=lambda folder: _set_draft_vocabulary(folder, torch.zeros(8)),
        message="expected weights in BF16, F16, F32, F64 and d2t in I64, got d2t in F32",
    ),
    Damage(
        name="d2t of shorter integers",
        inflict=lambda folder: _set_draft_vocabulary(folder, torch.zeros(8).int()),
        message="expected weights in .* and d2t in I64, got d2t in I32",
    ),
    Damage(
        name="draft vocabulary larger than the target's",
        inflict=lambda folder: change_config(folder, draft_vocab_size=10**9),
        message=r"draft_vocab_size must be at most vocab_size, got 1000000000 and \d+",
    ),
    Damage(
        name="wrong shape",
        inflict=lambda folder: change_tensors(
            folder, lambda tensors: tensors.update({LINEAR: tensors[LINEAR][:, 1:].contiguous()})
        ),
        message=rf"{LINEAR} has shape \[\d+, \d+\], config.json says \[\d+, \d+\]",
    ),
    Damage(
        name="weights in 8 bits",
        inflict=lambda folder: change_tensors(
            folder, lambda tensors: tensors.update({LINEAR: torch.zeros(tensors[LINEAR].shape, dtype=torch.int8)})
        ),
        message=f"expected weights in BF16, F16, F32, F64, got {LINEAR} in I8",
    ),
    Damage(
        name="truncated safetensors", inflict=lambda folder: _truncate(folder, 4000), message="safetensors is damaged"
    ),
    Damage(name="empty safetensors", inflict=lambda folder: _truncate(folder, 0), message="safetensors is damaged"),
    Damage(
        name="no weights",
        inflict=lambda folder: (folder / WEIGHTS_FILE).unlink(),
        message="expected the drafter's weights in model.safetensors, found no such file",
    ),
    Damage(
        name="pickle instead of safetensors",
        inflict=_pickle_instead,
        message="expected the drafter's weights in model.safetensors, found no such file",
    ),
    Damage(
        name="pickle beside safetensors",
        inflict=lambda folder: torch.save({}, folder / "pytorch_model.bin"),
        message="the only weights file, found pytorch_model.bin beside it",
    ),
]
# Values: found when the drafter's weights are read.
LATE = [
    Damage(name="NaN", inflict=_set(LINEAR, (0, 0), float("nan")), message=f"NaN or infinity in {LINEAR}"),
    Damage(name="infinity", inflict=_set(NORM, 0, float("inf")), message=f"NaN or infinity in {NORM}"),
    Damage(
        name="draft ids not ascending",
        inflict=_draft_ids(3, 9, 7, 8),
        message="d2t must name target ids in ascending order, each once, got 9 and then 7 at draft id 2",
    ),
    Damage(
        name="draft id twice",
        inflict=_draft_ids(3, 9, 9),
        message="d2t must name target ids in ascending order, each once, got 9 and then 9 at draft id 2",
    ),
    Damage(
        name="negative draft id",
        inflict=_draft_ids(-1, 9),
        message=r"d2t must name target ids from 0 to \d+, got -1 to 9",
    ),
    Damage(
        name="draft id beyond the vocabulary",
        inflict=_draft_ids(3, 10**6),
        message=r"d2t must name target ids from 0 to \d+, got 3 to 1000000",
    ),
]


def damaged(draft: Path, folder: Path, damage: Damage) -> Path:
    """A broken copy of a valid drafter."""
    shutil.copytree(draft, folder)
    damage.inflict(folder)
    return folder
