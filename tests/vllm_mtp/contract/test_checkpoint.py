"""A drafter's folder: what is written is what is read, and every broken folder is refused with a reason.

Catches what stock vLLM passes over in silence: a missing linear tensor (uninitialised memory is served), NaN, a
stray bias, a pickle beside the weights; a draft vocabulary that names wrong tokens.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from tests.drafts import (
    EARLY,
    LATE,
    Damage,
    damaged,
    random_tensors,
    small_config,
    with_draft_vocabulary,
    write_random_draft,
)
from vllm_mtp.cli import main
from vllm_mtp.contract.checkpoint import load_draft, save_draft
from vllm_mtp.contract.config import MTPConfig
from vllm_mtp.contract.tensors import WEIGHTS_FILE
from vllm_mtp.module.mtp import MTPModule

SHAPES: list[dict[str, Any]] = [
    {},
    {"qk_norm": True},
    {"attention_bias": True},
    {"qk_norm": True, "attention_bias": True},
    {"draft_vocab_size": 7},
]


@pytest.fixture
def draft(tmp_path: Path) -> Path:
    """A valid drafter."""
    return write_random_draft(tmp_path / "draft", small_config())


@pytest.mark.parametrize("options", SHAPES)
def test_what_is_saved_is_loaded(tmp_path: Path, options: dict[str, Any]) -> None:
    config = small_config(**options)
    tensors = random_tensors(config)
    save_draft(tmp_path / "draft", config, tensors)
    loaded_config, loaded = load_draft(tmp_path / "draft")
    assert loaded_config.contract() == config.contract()
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)
    assert sorted(path.name for path in (tmp_path / "draft").iterdir()) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize("options", SHAPES)
def test_tensors_are_the_modules_parameters(options: dict[str, Any]) -> None:
    config = small_config(**options)
    module = MTPModule(config)
    assert {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()} == config.tensor_shapes()


def test_neither_embedding_nor_head_is_stored(draft: Path) -> None:
    config, _ = load_draft(draft)
    with safe_open(str(draft / "model.safetensors"), framework="pt") as file:
        assert not any(config.vocab_size in file.get_slice(name).get_shape() for name in file.keys())


@pytest.mark.parametrize("damage", EARLY + LATE, ids=lambda damage: damage.name)
def test_a_broken_folder_is_refused(draft: Path, tmp_path: Path, damage: Damage) -> None:
    with pytest.raises(ValueError, match=damage.message) as caught:
        load_draft(damaged(draft, tmp_path / "broken", damage))
    assert str(tmp_path / "broken") in str(caught.value), "the error names the folder"


@pytest.mark.parametrize("damage", EARLY, ids=lambda damage: damage.name)
def test_autoconfig_refuses_it_before_any_value_is_read(draft: Path, tmp_path: Path, damage: Damage) -> None:
    """What vLLM calls first, in the caller's process."""
    from transformers import AutoConfig

    AutoConfig.register(MTPConfig.model_type, MTPConfig, exist_ok=True)
    with pytest.raises((ValueError, OSError), match=damage.message):
        AutoConfig.from_pretrained(damaged(draft, tmp_path / "broken", damage))


def test_all_faults_are_named_at_once(draft: Path) -> None:
    fields = json.loads((draft / "config.json").read_text())
    fields |= {"hidden_size": -1, "concat_order": "hidden_embed", "rms_norm_eps": 2}
    (draft / "config.json").write_text(json.dumps(fields))
    with pytest.raises(ValueError, match=r"hidden_size .*got -1; concat_order .*'hidden_embed'; rms_norm_eps .*got 2"):
        load_draft(draft)


def test_the_weights_are_as_readable_as_the_config(draft: Path) -> None:
    """Who serves a drafter need not be who trained it."""
    (weights,) = draft.glob("*.safetensors")
    assert weights.stat().st_mode == (draft / "config.json").stat().st_mode


def test_lookup_is_set_without_training(draft: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a command that loses a field of config.json, touches the weights, or takes what serving would refuse."""
    before, weights = json.loads((draft / "config.json").read_text()), (draft / WEIGHTS_FILE).read_bytes()
    assert main(["lookup", str(draft), "--module-steps", "2"]) == 0
    lookup = {"min_match": 2, "max_match": 8, "module_steps": 2}
    assert json.loads((draft / "config.json").read_text()) == before | {"lookup": lookup}
    assert load_draft(draft)[0].lookup == lookup
    assert main(["lookup", str(draft), "--max-match", "5"]) == 0
    assert load_draft(draft)[0].lookup == lookup | {"max_match": 5}, "what is not given stays"
    assert main(["lookup", str(draft), "--max-match", "8"]) == 0
    assert main(["lookup", str(draft), "--min-match", "9"]) == 2
    assert "min_match <= max_match <= 32, got 9 and 8" in capsys.readouterr().err
    assert main(["lookup", str(draft), "--off", "--min-match", "3"]) == 2
    assert "--off: expected no other setting beside it, got min_match" in capsys.readouterr().err
    (draft / "config.json").write_text(json.dumps(before | {"lookup": {"min": 3}}))
    assert main(["lookup", str(draft), "--off"]) == 0, "a fault of lookup can be repaired"
    assert json.loads((draft / "config.json").read_text()) == before
    assert (draft / WEIGHTS_FILE).read_bytes() == weights


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere: expected a drafter's folder with config\.json"):
        load_draft(tmp_path / "nowhere")


def test_another_models_folder(draft: Path) -> None:
    fields = json.loads((draft / "config.json").read_text()) | {"model_type": "llama"}
    (draft / "config.json").write_text(json.dumps(fields))
    with pytest.raises(ValueError, match="expected model_type 'mtp', got 'llama'"):
        load_draft(draft)


def test_a_draft_vocabulary_reaches_the_module(draft: Path, tmp_path: Path) -> None:
    ids_J = torch.tensor([0, 4, 5, 31, 49])
    config, tensors = load_draft(with_draft_vocabulary(draft, tmp_path / "few", ids_J))
    module = MTPModule(config)
    module.load_state_dict(tensors)
    draft_ids_J = module.to(torch.bfloat16).draft_ids
    assert draft_ids_J is not None
    assert draft_ids_J.dtype == torch.int64
    assert draft_ids_J.tolist() == ids_J.tolist()
    assert MTPModule(load_draft(draft)[0]).draft_ids is None


def test_saving_checks_the_tensors(tmp_path: Path) -> None:
    config = small_config()
    tensors = random_tensors(config)
    del tensors["norm.weight"]
    with pytest.raises(ValueError, match=r"missing norm\.weight"):
        save_draft(tmp_path / "draft", config, tensors)
    assert not (tmp_path / "draft").exists()


def test_saving_checks_the_draft_vocabulary(tmp_path: Path) -> None:
    config = small_config(draft_vocab_size=7)
    tensors = random_tensors(config)
    for broken, message in ((tensors["d2t"].int(), "int64 offsets, got int32"), (44 + 0 * tensors["d2t"], "44 to 50")):
        with pytest.raises(ValueError, match=f"the module: d2t must .*{message}"):
            save_draft(tmp_path / "draft", config, tensors | {"d2t": broken})
    assert not (tmp_path / "draft").exists()
