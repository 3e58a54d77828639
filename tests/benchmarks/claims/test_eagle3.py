"""The peer of the claims study: what it is trained on, that it learns, and that vLLM drafts with what it learned."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch

from tests.benchmarks.claims.test_measure import study_of
from vllm_mtp.benchmarks.claims.arms import DRAFT, EAGLE3, MTP, arms_of, comparisons
from vllm_mtp.benchmarks.claims.config import PEERS, ClaimsConfig
from vllm_mtp.benchmarks.claims.eagle3 import Eagle3Settings, _calls, check, eagle3, train_eagle3
from vllm_mtp.benchmarks.claims.measure import acceptance
from vllm_mtp.benchmarks.harness.acceptance import total
from vllm_mtp.training.data.batches import Batches
from vllm_mtp.training.data.rows import Row
from vllm_mtp.training.frozen.target import FrozenTarget

needs_speculators = pytest.mark.skipif(
    importlib.util.find_spec("speculators") is None, reason="speculators is not installed"
)
PROMPTS = Path(__file__).parents[3] / "examples" / "stdlib" / "prompts.txt"
SETTINGS = Eagle3Settings(num_steps_unrolled=2, muon_learning_rate=0.02)


@pytest.fixture(scope="module")
def frozen(target_dir: Path) -> FrozenTarget:
    return FrozenTarget.load(str(target_dir), device="cpu", dtype="float32")


def batches_of(frozen: FrozenTarget, num_rows: int, length: int = 65) -> Batches:
    """Rows of the shipped prompts, of which all tokens count."""
    text = PROMPTS.read_text("utf-8")
    ids = torch.tensor(frozen.tokenizer(text, add_special_tokens=False).input_ids)
    rows = [
        Row(ids_L=ids, counts_L=torch.ones(len(ids), dtype=torch.bool))
        for ids in ids[: num_rows * length].split(length)
    ]
    return Batches([rows], tokens_per_batch=12 * length, seed=0)


def train(
    frozen: FrozenTarget, batches: Batches, num_steps: int, output: Path, *, ids_J: torch.Tensor | None
) -> list[float]:
    path = str(frozen.model.config._name_or_path)
    return train_eagle3(SETTINGS, frozen, path, batches, num_steps, draft_ids_J=ids_J, seed=0, output=output).losses


def test_what_is_missing_is_said_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="expected vllm, which alone drafts with EAGLE-3, got torch"):
        check("torch", "LlamaForCausalLM")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install --no-deps speculators==0\.9\.0 hs-connectors==0\.9\.0"):
        check("vllm", "LlamaForCausalLM")


@needs_speculators
@pytest.mark.vllm
def test_a_target_that_vllm_does_not_draft_for_is_refused() -> None:
    check("vllm", "LlamaForCausalLM")
    for architecture in ("GPT2LMHeadModel", "unknown"):
        with pytest.raises(ValueError, match=rf"^target: expected .* EAGLE-3, got {architecture}"):
            check("vllm", architecture)


def test_the_base_is_compared_with_two_of_them() -> None:
    arms = arms_of(comparisons(ClaimsConfig(claims=PEERS), DRAFT, 384))
    assert [arm.drafter for arm in arms] == [MTP, EAGLE3, EAGLE3]
    assert len({arm.name for arm in arms}) == 3
    assert {arm.vocabulary for arm in arms} == {DRAFT}


def test_positions_have_the_states_before_and_the_targets_own_next_token(frozen: FrozenTarget) -> None:
    batch = batches_of(frozen, 20)[0]
    layers = [1, 3]
    calls = list(_calls(frozen, batch, layers))
    assert len(calls) > 1
    assert sum(call["input_ids"].numel() for call in calls) == int(batch.text_BS.sum()) - len(batch.ids_BL)
    first, width = calls[0], frozen.config.hidden_size
    ids_BT = batch.ids_BL[:1, :-1]
    states = frozen.body(input_ids=ids_BT, output_hidden_states=True).hidden_states
    assert torch.equal(first["input_ids"][0, :10], ids_BT[0, 1:11])
    for place, layer in enumerate(layers):
        found = first["hidden_states"][0, :10, place * width : (place + 1) * width]
        torch.testing.assert_close(found, states[layer][0, :10])
    normed = frozen.body.norm(first["verifier_last_hidden_states"][0, :10])
    torch.testing.assert_close(normed, frozen.hidden_states(ids_BT)[0, 1:11], atol=1e-4, rtol=1e-4)


@needs_speculators
def test_it_learns_and_its_folder_has_the_draft_vocabulary(frozen: FrozenTarget, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    batches = batches_of(frozen, 20)
    ids_J = torch.cat([batch.ids_BL.flatten() for batch in map(batches.__getitem__, range(len(batches)))]).unique()
    losses = train(frozen, batches, 12, tmp_path, ids_J=ids_J)
    assert max(losses[-3:]) < min(losses[:3])
    config = json.loads((tmp_path / "config.json").read_text("utf-8"))
    assert config["speculators_model_type"] == "eagle3"
    assert config["draft_vocab_size"] == len(ids_J)
    tensors = load_file(tmp_path / "model.safetensors")
    assert torch.equal(tensors["d2t"] + torch.arange(len(ids_J)), ids_J)


@needs_speculators
@pytest.mark.extended
@pytest.mark.vllm
@pytest.mark.slow
def test_vllm_accepts_what_it_learned(frozen: FrozenTarget, target_dir: Path, tmp_path: Path) -> None:
    """Trained for long on a few rows, and asked to go on from them, which gave 1.30."""
    batches = batches_of(frozen, 12)
    train(frozen, batches, 200, tmp_path, ids_J=None)
    prompts = [batches[0].ids_BL[row, :24].tolist() for row in range(4)]
    method = eagle3(tmp_path, 2)
    records = acceptance(study_of(target_dir, prompts), tmp_path, tmp_path / "engine.log", method)[0.0]
    assert total([record.acceptance for record in records]).acceptance_length > 1.15
