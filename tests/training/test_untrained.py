"""A drafter without training has the shape that training would give it.

Catches a cost that is measured on a module other than the one that will be served.
"""

import json
from pathlib import Path

import pytest
import torch

from vllm_mtp.common.errors import InputError
from vllm_mtp.training.config import TrainConfig
from vllm_mtp.training.frozen.pair import load_draft_of
from vllm_mtp.training.untrained import write_untrained

TARGET = str(Path(__file__).resolve().parents[2] / "examples" / "stdlib" / "target")


def test_has_the_shape_of_the_targets_layer_and_no_lookup(tmp_path: Path) -> None:
    write_untrained(TARGET, tmp_path, TrainConfig())
    config, tensors, target = load_draft_of(TARGET, tmp_path)
    assert (config.hidden_size, config.intermediate_size) == (target.hidden_size, target.intermediate_size)
    assert config.lookup is None
    assert config.draft_vocab_size is None
    assert {name: tuple(one.shape) for name, one in tensors.items()} == config.tensor_shapes()
    assert {one.dtype for one in tensors.values()} == {torch.bfloat16}


def test_settings_of_training_and_a_draft_vocabulary_decide_the_shape(tmp_path: Path) -> None:
    write_untrained(TARGET, tmp_path, TrainConfig(intermediate_size=96), draft_vocab_size=100)
    config, tensors, target = load_draft_of(TARGET, tmp_path)
    ids = tensors["d2t"] + torch.arange(100)
    assert (config.intermediate_size, config.draft_vocab_size) == (96, 100)
    assert (ids[0], ids[-1]) == (0, target.vocab_size - 1)
    assert len(set(ids.tolist())) == 100


def test_more_tokens_than_the_target_has_are_refused(tmp_path: Path) -> None:
    vocab_size = json.loads((Path(TARGET) / "config.json").read_text())["vocab_size"]
    with pytest.raises(InputError, match=f"expected at most the {vocab_size} tokens of the target, got 999999"):
        write_untrained(TARGET, tmp_path / "draft", TrainConfig(), draft_vocab_size=999_999)
    assert not (tmp_path / "draft").exists()
