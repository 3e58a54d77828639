"""Which target a drafter belongs to."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from vllm_mtp.contract.fingerprint import (
    fingerprint_rows,
    stored_rows,
    stored_weights_sha256,
    tokenizer_sha256,
    weights_sha256,
)


def test_tokenizer_hash_is_of_pairs_not_of_their_order() -> None:
    assert tokenizer_sha256({"a": 0, "b": 1}) == tokenizer_sha256({"b": 1, "a": 0})
    assert tokenizer_sha256({"a": 0, "b": 1}) != tokenizer_sha256({"a": 1, "b": 0})


def test_weights_hash_survives_bfloat16_and_sees_every_chosen_row() -> None:
    table = torch.randn(50, 16, generator=torch.Generator().manual_seed(0))
    rows = fingerprint_rows(50)
    assert rows[0] == 0
    assert rows[-1] == 49
    stored = weights_sha256(table[rows], table[rows])
    assert weights_sha256(table.bfloat16()[rows], table.bfloat16()[rows]) == stored
    for row in rows:
        other = table.clone()
        other[row] += 1
        assert weights_sha256(other[rows], table[rows]) != stored
        assert weights_sha256(table[rows], other[rows]) != stored


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"model.embed_tokens.weight": (50, 8), "model.layers.0.mlp.up_proj.weight": (16, 8), "norm.weight": (8,)}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def test_a_model_in_the_hubs_cache(tmp_path: Path) -> None:
    """Catches weights that are there and not found, because other files of the repository are not."""
    revision = "0" * 40
    repository = tmp_path / "models--some--model"
    snapshot = repository / "snapshots" / revision
    for folder in (snapshot, repository / "refs", repository / "trees"):
        folder.mkdir(parents=True)
    (repository / "refs" / "main").write_text(revision)
    names = ("README.md", "model.safetensors", "consolidated.safetensors", "original/model.safetensors")
    listing = {name: {"size": 1, "blob_id": "0" * 40} for name in names}
    (repository / "trees" / f"{revision}.json").write_text(json.dumps({"format_version": 1, "files": listing}))
    save_file(tensors(), snapshot / "model.safetensors")
    for download in (False, True):  # offline, both find what is there
        found = stored_rows("some/model", "embed_tokens.weight", 50, download=download, cache_dir=str(tmp_path))
        assert found is not None
        assert torch.equal(found, tensors()["model.embed_tokens.weight"][fingerprint_rows(50)])
    assert stored_rows("some/other", "embed_tokens.weight", 50, cache_dir=str(tmp_path)) is None


def test_rows_that_cannot_be_read_are_none(tmp_path: Path) -> None:
    save_file(tensors(), tmp_path / "model.safetensors")
    assert stored_rows(str(tmp_path), "embed_tokens.weight", 51) is None, "another model's table of the same name"
    assert stored_rows(str(tmp_path), "lm_head.weight", 50) is None
    (tmp_path / "a.safetensors").write_text("version https://git-lfs.github.com/spec/v1")
    assert stored_rows(str(tmp_path), "embed_tokens.weight", 50) is None
    assert stored_weights_sha256(str(tmp_path)) == ""


def test_the_hash_of_all_weights_knows_a_layer_that_was_tuned(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    assert stored_weights_sha256(str(tmp_path)) == ""
    save_file(tensors(), path)
    first = stored_weights_sha256(str(tmp_path))
    save_file(tensors(), path)
    assert stored_weights_sha256(str(tmp_path)) == first
    for change in (lambda w: w + 1, torch.Tensor.bfloat16):
        changed = tensors()
        changed["model.layers.0.mlp.up_proj.weight"] = change(changed["model.layers.0.mlp.up_proj.weight"])
        save_file(changed, path)
        assert stored_weights_sha256(str(tmp_path)) != first


def test_the_hash_reads_every_kind_of_tensor(tmp_path: Path) -> None:
    """Quantised checkpoints have scales without a shape, float8 and packed integers."""
    kinds = {
        "scale": torch.tensor(2.0),
        "empty": torch.zeros(0, 4),
        "fp8": torch.ones(4, 4).to(torch.float8_e4m3fn),
        "packed": torch.ones(4, 4, dtype=torch.int32),
    }
    save_file(kinds, tmp_path / "model.safetensors")
    first = stored_weights_sha256(str(tmp_path))
    save_file(kinds | {"scale": torch.tensor(3.0)}, tmp_path / "model.safetensors")
    assert stored_weights_sha256(str(tmp_path)) != first
