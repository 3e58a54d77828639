"""The module's shape from the target's config, and the drafter that a run goes on from.

Catches: the rotation of local attention, or a default, for a layer that attends to all of a long context; a drafter of
another tokenizer trained on as if its ids meant the same, and a fine-tuned target that nothing is said of.
"""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Gemma3TextConfig, LlamaConfig

from tests.drafts import small_config, write_random_draft
from vllm_mtp.contract.checkpoint import load_draft
from vllm_mtp.contract.fingerprint import tokenizer_sha256
from vllm_mtp.contract.lookup import Lookup
from vllm_mtp.contract.tensors import draft_ids
from vllm_mtp.training.config import TrainConfig
from vllm_mtp.training.start.initial import draft_config_for, initial_tensors, make_module, origin, trained_length

VOCABULARY = {"a": 0, "b": 1}
RATES = {"full_attention": 1_000_000.0, "sliding_attention": 10_000.0}


@pytest.mark.parametrize(
    "target",
    [
        LlamaConfig(rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0}),
        Gemma3TextConfig(
            rope_parameters={name: {"rope_type": "default", "rope_theta": rate} for name, rate in RATES.items()}
        ),
    ],
    ids=["one rate", "a rate for each kind of attention"],
)
def test_the_rotation_is_that_of_global_attention(target: Any) -> None:
    draft = draft_config_for(target, TrainConfig(), {})
    assert draft.rope_parameters == {"rope_type": "default", "rope_theta": 1_000_000.0}


def test_a_new_drafter_copies_where_the_text_repeats() -> None:
    assert draft_config_for(LlamaConfig(), TrainConfig(), {}).contract()["lookup"] == Lookup().fields()


@pytest.mark.parametrize("dtype", ["int8", None])
def test_a_drafter_that_is_trained_on_keeps_its_head(dtype: str | None, tmp_path: Path) -> None:
    draft = write_random_draft(tmp_path, small_config(draft_head_dtype=dtype))
    assert draft_config_for(LlamaConfig(), TrainConfig(), {}, initial=draft).draft_head_dtype == dtype


def test_the_trained_length_is_that_of_the_longest_row(tmp_path: Path) -> None:
    """Catches a promise of `sequence_length` where every conversation is shorter, and a second stage on short rows
    that takes the length of the first away."""
    rows = [torch.arange(5), torch.arange(9), torch.arange(2)]
    assert trained_length(rows, None) == 8
    for known, expected in ((None, 8), (4, 8), (40, 40)):
        draft = write_random_draft(tmp_path / str(known), small_config(trained_length=known))
        assert trained_length(rows, draft) == expected


@pytest.mark.parametrize("length", [4096, 4097])
def test_rows_are_as_long_as_the_target_reads(length: int) -> None:
    """Catches a context that RoPE scaling makes longer refused, as `max_position_embeddings` alone has it."""
    rope = {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}
    target = LlamaConfig(max_position_embeddings=1024, rope_parameters=rope)
    with pytest.raises(ValueError, match="the target's 4096") if length > 4096 else nullcontext():
        draft_config_for(target, TrainConfig(sequence_length=length, tokens=10**6), {})


def draft_for(folder: Path, **changes: Any) -> Path:
    """A drafter whose fingerprint names VOCABULARY and weights "w"."""
    fingerprint = {"name": "old", "tokenizer_sha256": tokenizer_sha256(VOCABULARY), "weights_sha256": "w"}
    return write_random_draft(folder, small_config(target_fingerprint=fingerprint, **changes))


def test_a_run_goes_on_from_a_drafter_of_its_tokenizer(tmp_path: Path) -> None:
    draft = draft_for(tmp_path)
    assert initial_tensors(draft, small_config(), None, target="tuned", vocabulary=VOCABULARY)
    with pytest.raises(ValueError, match=r"made for another target \(old\): tokenizer .* train one for other"):
        initial_tensors(draft, small_config(), None, target="other", vocabulary={"a": 1, "b": 0})


def test_what_made_a_drafter_of_another_shape_is_named(tmp_path: Path) -> None:
    draft = draft_for(tmp_path, intermediate_size=40, qk_norm=True)
    with pytest.raises(ValueError, match=r"settings that made it: intermediate_size 40, qk_norm True$"):
        initial_tensors(draft, small_config(), None, target="tuned", vocabulary=VOCABULARY)


@pytest.mark.parametrize("size", [None, 3, 4])
def test_a_run_has_a_draft_vocabulary_of_its_own(size: int | None, tmp_path: Path) -> None:
    """Catches a run that keeps the drafter's ids and trains for others, and a vocabulary forgotten."""
    draft_ids_J = torch.tensor([1, 4, 7])
    draft, config = draft_for(tmp_path, draft_vocab_size=size), small_config(draft_vocab_size=3)
    tensors = initial_tensors(draft, config, draft_ids_J, target="tuned", vocabulary=VOCABULARY)
    assert draft_ids(tensors["d2t"]).tolist() == [1, 4, 7]
    module = make_module(config, draft_ids_J, 0, tensors)
    assert all(torch.equal(tensor, module.state_dict()[name]) for name, tensor in tensors.items())
    before = load_draft(draft)[1]
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in before.items() if name != "d2t")
    line = origin(draft, {"weights_sha256": "w"}, draft_ids_J)
    assert line.endswith("of the 3 drafted tokens it did not draft") is (size is not None)
    if size is not None:
        with pytest.raises(ValueError, match=rf"^initial: .* drafts {size} tokens: give the draft_vocab that made it"):
            initial_tensors(draft, small_config(), None, target="tuned", vocabulary=VOCABULARY)


@pytest.mark.parametrize(("weights", "is_told"), [("w", False), ("v", True)])
def test_a_fine_tuned_target_is_told_of(weights: str, is_told: bool, tmp_path: Path) -> None:
    line = origin(draft_for(tmp_path), {"name": "new", "weights_sha256": weights}, None)
    assert line.startswith(f"goes on from {tmp_path}, made for old")
    assert ("a fine-tuned target?" in line) is is_told


def test_heads_that_do_not_divide_are_no_fault_of_a_file() -> None:
    with pytest.raises(ValueError, match=r"^there is no module of that shape: .* got 32 and 7$"):
        draft_config_for(LlamaConfig(), TrainConfig(num_key_value_heads=7), {})
