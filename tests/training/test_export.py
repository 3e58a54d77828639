"""A finished drafter's tensors: stored in bfloat16, but for what counts.

Catches: the ids of a draft vocabulary rounded to bfloat16, which has 8 bits for them.
"""

from pathlib import Path

import pytest
import torch

from tests.drafts import d2t_of, random_tensors, small_config
from vllm_mtp.contract.checkpoint import load_draft
from vllm_mtp.module.mtp import MTPModule
from vllm_mtp.training.export import export


def test_a_draft_vocabulary_is_exported_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vllm_mtp.training.export.model_card", lambda info: "")
    config = small_config(vocab_size=100_000, draft_vocab_size=3)
    ids_J = torch.tensor([0, 4_097, 99_999])
    module = MTPModule(config)
    module.load_state_dict(random_tensors(config) | {"d2t": d2t_of(ids_J)})
    export(tmp_path / "draft", module, config, {})
    loaded_config, tensors = load_draft(tmp_path / "draft")
    assert loaded_config.draft_vocab_size == 3
    assert torch.equal(tensors.pop("d2t"), d2t_of(ids_J))
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
