"""A finished drafter's folder: tensors in bfloat16, but for what counts, the curve, and the card.

Catches: the ids of a draft vocabulary rounded to bfloat16, which has 8 bits for them, a curve whose columns move, a
card with facts of another drafter.
"""

from pathlib import Path

import pytest
import torch

from tests.drafts import d2t_of, random_tensors, small_config
from vllm_mtp.contract.checkpoint import load_draft
from vllm_mtp.module.mtp import MTPModule
from vllm_mtp.training.export import export, model_card, training_curve
from vllm_mtp.training.record import Entry, HeldOut


def test_a_draft_vocabulary_is_exported_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vllm_mtp.training.export.model_card", lambda info: "")
    config = small_config(vocab_size=100_000, draft_vocab_size=3)
    ids_J = torch.tensor([0, 4_097, 99_999])
    module = MTPModule(config)
    module.load_state_dict(random_tensors(config) | {"d2t": d2t_of(ids_J)})
    export(tmp_path / "draft", module, {}, [])
    loaded_config, tensors = load_draft(tmp_path / "draft")
    assert loaded_config.draft_vocab_size == 3
    assert torch.equal(tensors.pop("d2t"), d2t_of(ids_J))
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}


def test_the_curve_has_the_first_step_every_tenth_the_last_and_what_was_held_out() -> None:
    held_out = HeldOut(loss=0.5, agreement_per_position=[0.6, 0.4], overlap_per_position=[0.7, 0.3], positions=80)
    log = [
        Entry(
            step=number,
            loss=1 / number,
            agreement_per_position=[0.25] if number < 20 else [0.5, 0.125],
            held_out=held_out if number == 15 else None,
        )
        for number in range(1, 23)
    ]
    assert training_curve(log).splitlines() == [
        "step,loss,agreement_0,agreement_1,held_out_loss,held_out_positions,"
        "held_out_agreement_0,held_out_agreement_1,held_out_overlap_0,held_out_overlap_1",
        "1,1.0,0.25,,,,,,,",
        "10,0.1,0.25,,,,,,,",
        "15,0.06667,0.25,,0.5,80,0.6,0.4,0.7,0.3",
        "20,0.05,0.5,0.125,,,,,,",
        "22,0.04545,0.5,0.125,,,,,,",
    ]


def test_a_log_without_steps_is_a_header() -> None:
    assert training_curve([]) == "step,loss,held_out_loss,held_out_positions\n"


@pytest.mark.parametrize(("size", "said"), [(None, "all of the target's 99,999"), (300, "300 of the target's 99,999")])
def test_the_card_speaks_of_this_drafter_alone(size: int | None, said: str) -> None:
    info = {
        "target": {"name": "some/model", "vocab_size": 99_999},
        "draft_vocab_size": size,
        "config": {"objective": "kl", "num_steps_unrolled": 3},
        "tokens_seen": 1_234_567,
        "held_out": {"agreement_per_position": [0.5, 0.25], "overlap_per_position": [0.75, 0.125]},
    }
    card = model_card(info)
    assert said in card
    assert "| 1 | 0.250 | 0.125 |" in card
    assert "1,234,567 tokens" in card
    assert "SmolLM2" not in card
    assert max(map(len, card.splitlines())) <= 120
