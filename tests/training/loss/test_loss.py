"""What draft steps are fed with in training: the text's tokens, or those that serving would draft.

Catches: drafted tokens of another step or position, rows of a draft vocabulary taken for the target's ids, a setting
that training does not hear of, held-out measures that change with it.
"""

# Shapes: B sequences, T positions, K draft steps, D hidden size, L tokens, J draft vocabulary.

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.training.test_loop import save_target
from vllm_mtp.module.draft_loop import DraftLoop
from vllm_mtp.module.mtp import MTPModule
from vllm_mtp.training.config import TrainConfig
from vllm_mtp.training.data.batches import Batch
from vllm_mtp.training.frozen.reading import BatchStates
from vllm_mtp.training.frozen.target import FrozenTarget
from vllm_mtp.training.loss.loss import Loss, compare, draft, held_out, tokens_at_checkpoints
from vllm_mtp.training.start.initial import draft_config_for, make_module

CONFIG = TrainConfig(sequence_length=16, step_tokens="drafted", objective="lk")
DRAFT_IDS_J = torch.arange(7, 250, 3)
K = 4


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> FrozenTarget:
    return FrozenTarget.load(str(save_target(tmp_path_factory.mktemp("target"), tied=True)), device="cpu")


@pytest.fixture(params=[None, DRAFT_IDS_J], ids=["whole vocabulary", "draft vocabulary"])
def draft_ids_J(request: pytest.FixtureRequest) -> Tensor | None:
    found: Tensor | None = request.param
    return found


@pytest.fixture
def module(target: FrozenTarget, draft_ids_J: Tensor | None) -> MTPModule:
    draft_config = draft_config_for(target.config, CONFIG, {}, draft_ids_J)
    draft_config.lookup = None
    return make_module(draft_config, draft_ids_J, seed=0)


@pytest.fixture
def batch() -> Batch:
    ids_BL = torch.randint(260, (2, 15), generator=torch.Generator().manual_seed(0))
    return Batch(ids_BL, ids_BL[:, 1:] >= 0, ids_BL[:, 1:] >= 0)


def test_drafted_tokens_are_those_of_serving(
    target: FrozenTarget, module: MTPModule, draft_ids_J: Tensor | None, batch: Batch
) -> None:
    loss, hidden_BTD = Loss(target, draft_ids_J, CONFIG), target.hidden_states(batch.ids_BL[:, :-1])
    states_KBTD = draft(module, target, batch.ids_BL, hidden_BTD, K, loss.drafted)
    found_KBT = torch.stack([loss.drafted(states_BTD) for states_BTD in states_KBTD])
    for b, ids_L in enumerate(batch.ids_BL):
        served = DraftLoop(module, target.head)
        for t in range(found_KBT.size(2)):
            expected = served.propose(hidden_BTD[b, t : t + 1], ids_L[t + 1 : t + 2], K).tokens
            assert found_KBT[:, b, t].tolist() == expected
    assert (found_KBT[0] != batch.ids_BL[:, 2 : 2 + found_KBT.size(2)]).any()


def test_training_feeds_them_and_held_out_measures_do_not(
    target: FrozenTarget, module: MTPModule, draft_ids_J: Tensor | None, batch: Batch
) -> None:
    losses = [Loss(target, draft_ids_J, replace(CONFIG, step_tokens=tokens)) for tokens in ("text", "drafted")]
    hidden_BTD = target.hidden_states(batch.ids_BL[:, :-1])
    text, drafted = (compare(module, loss, batch, BatchStates(hidden_BTD, None), K).loss_K for loss in losses)
    fed_KBTD = draft(module, target, batch.ids_BL, hidden_BTD, K, losses[1].drafted)
    torch.testing.assert_close(drafted, losses[1].measured(fed_KBTD, batch, hidden_BTD).loss_K)
    assert drafted[0] == text[0]
    assert (drafted != text)[1:].all()
    measured = [held_out(module, loss, [batch], lambda *_: hidden_BTD, CONFIG) for loss in losses]
    assert measured[0] == measured[1]


def test_an_objective_on_the_text_measures_the_same_rounds(
    target: FrozenTarget, module: MTPModule, draft_ids_J: Tensor | None, batch: Batch
) -> None:
    """Catches rounds that end where a draft vocabulary lacks the text's token, for "lm" learns nothing there."""
    hidden_BTD = target.hidden_states(batch.ids_BL[:, :-1])
    measured = []
    for objective in ("kl", "lm"):
        loss = Loss(target, draft_ids_J, replace(CONFIG, objective=objective))
        where = loss.places(batch, K)
        states_KBTD = torch.stack([hidden_BTD[:, k : k + 14 - K] for k in range(1, K + 1)])  # the target's: all agree
        found = loss.measured(states_KBTD, batch, hidden_BTD)
        assert found.agreement_K.isfinite().all()
        some = batch._replace(mask_BS=batch.ids_BL[:, 1:] % 3 > 0)
        for one in (batch, some):
            assert torch.equal(loss.counts(one, K), loss.places(one, K).scored_KN.sum(-1).float())
        assert (loss.counts(batch, K) < where.exists_KN.sum(-1)).any() == (
            objective == "lm" and draft_ids_J is not None
        )
        measured.append(found.agrees_KBT)
    assert measured[0] is not None
    assert measured[0].any()
    assert torch.equal(measured[0], measured[1])


def test_a_gpu_measures_a_twentieth_of_what_it_trains_on(tmp_path: Path) -> None:
    config = TrainConfig(checkpoint_every=10, batch_size=4, sequence_length=64)
    loss = Loss(FrozenTarget.load(str(save_target(tmp_path, tied=True))), None, config)
    on_a_cpu = tokens_at_checkpoints(loss, config)
    loss.target = replace(loss.target, device=torch.device("cuda"))
    assert tokens_at_checkpoints(loss, config) == 128 < on_a_cpu
