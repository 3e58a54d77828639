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
    held_out = HeldOut(
        loss=0.5, agreement_per_position=[0.6, 0.4], overlap_per_position=[0.7, 0.3], positions=80,
        acceptance_length=1.5, acceptance_length_95=(1.25, 1.75),
    )  # fmt: skip
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
        "held_out_acceptance_length,held_out_acceptance_length_95_low,held_out_acceptance_length_95_high,"
        "held_out_agreement_0,held_out_agreement_1,held_out_overlap_0,held_out_overlap_1",
        "1,1.0,0.25,,,,,,,,,,",
        "10,0.1,0.25,,,,,,,,,,",
        "15,0.06667,0.25,,0.5,80,1.5,1.25,1.75,0.6,0.4,0.7,0.3",
        "20,0.05,0.5,0.125,,,,,,,,,",
        "22,0.04545,0.5,0.125,,,,,,,,,",
    ]


def test_a_log_without_steps_is_a_header() -> None:
    assert training_curve([]).startswith("step,loss,held_out_loss,held_out_positions,")


MEASURED = {"loss": 0.5, "agreement_per_position": [0.5, 0.25], "overlap_per_position": [0.75, 0.125], "positions": 9}


@pytest.mark.parametrize(("size", "said"), [(None, "all of the target's 99,999"), (300, "300 of the target's 99,999")])
def test_the_card_speaks_of_this_drafter_alone(size: int | None, said: str) -> None:
    info = {
        "target": {"name": "some/model", "vocab_size": 99_999},
        "draft_vocab_size": size,
        "config": {"objective": "kl", "num_steps_unrolled": 3},
        "tokens_seen": 1_234_567,
        "kept_step": 1_800,
        "held_out": MEASURED | {"acceptance_length": 1.5, "acceptance_length_95": [1.25, 1.75]},
    }
    card = model_card(info)
    assert said in card
    assert "| 1 | 0.250 | 0.125 |" in card
    assert "1,234,567 tokens" in card
    assert "k = 3, with its 95% interval: **1.50 (1.25 to 1.75)** tokens a round." in card
    assert "SmolLM2" not in card
    assert max(map(len, card.splitlines())) <= 120
    of_last = MEASURED | {"acceptance_length": 1.25, "acceptance_length_95": [1.0, 1.5]}
    assert "the best by" not in card
    card = model_card(info | {"held_out_of_last_step": of_last})
    assert "step 1,800, the best by held-out acceptance length.\nThe last one has 1.25 (1.00 to 1.50)." in card
    assert max(map(len, card.splitlines())) <= 120


def test_a_card_of_what_was_trained_before_acceptance_was_measured() -> None:
    info = {
        "target": {"name": "some/model", "vocab_size": 9},
        "draft_vocab_size": None,
        "config": {"objective": "kl", "num_steps_unrolled": 3},
        "tokens_seen": 1,
        "held_out": MEASURED,
    }
    assert "Acceptance length" not in model_card(info)
