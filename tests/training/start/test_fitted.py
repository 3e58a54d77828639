"""The projection's start: least squares against torch's own, and what it is worth to a run.

Catches: states that are paired with the wrong token, positions that do not count, a weight that is transposed, a scale
that is applied twice, processes that fit apart.
"""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.drafts import small_config
from vllm_mtp.module.mtp import MTPModule
from vllm_mtp.module.shared_head import SharedHead
from vllm_mtp.training.config import TrainConfig
from vllm_mtp.training.loop import train
from vllm_mtp.training.ranks import Ranks
from vllm_mtp.training.run import TrainInputs
from vllm_mtp.training.start.fitted import fit_next_state
from vllm_mtp.training.start.initial import make_module

ROOT = Path(__file__).resolve().parents[3]
CONFIG = small_config()
SIZE = CONFIG.hidden_size
Rows = list[tuple[Tensor, Tensor, Tensor, Tensor]]


def head() -> SharedHead:
    torch.manual_seed(1)
    embedding_VD = torch.randn(CONFIG.vocab_size, SIZE)
    return SharedHead(embedding_VD=embedding_VD, head_VD=embedding_VD)


def rows(num_rows: int, noise: float = 0.0) -> Rows:
    """Two batches whose states are a linear map of what the module is given, times a scale, where positions count."""
    module, shared = make_module(CONFIG, None, seed=0), head()
    torch.manual_seed(2)
    weight_DI = torch.randn(SIZE, 2 * SIZE) * (2 * SIZE) ** -0.5
    scale_D = torch.rand(SIZE) + 0.5
    found = []
    for _ in range(2):
        ids_BL = torch.randint(CONFIG.vocab_size, (num_rows, 9))
        hidden_BTD = torch.randn(num_rows, 8, SIZE)
        counts_BT = torch.rand(num_rows, 8) < 0.7
        for t in range(7):
            inputs_BI = torch.cat(
                (module.enorm(shared.embed(ids_BL[:, t + 1])), module.hnorm(hidden_BTD[:, t])), dim=-1
            )
            said_BD = scale_D * (inputs_BI @ weight_DI.T + noise * torch.randn(num_rows, SIZE))
            counts_B1 = counts_BT[:, t + 1, None]
            hidden_BTD[:, t + 1] = torch.where(counts_B1, said_BD, 50 * torch.randn(num_rows, SIZE)).detach()
        found.append((ids_BL, hidden_BTD, hidden_BTD, counts_BT))
    return found


def inputs_and_states(module: MTPModule, some: Rows) -> tuple[Tensor, Tensor]:
    """What counts of some rows: inputs of the projection, [M, I], and the states after them, [M, D]."""
    shared, inputs, states = head(), [], []
    for ids_BL, hidden_BTD, _, counts_BT in some:
        for row, t in (counts_BT[:, 1:].nonzero()).tolist():
            embedding_D = shared.embed(ids_BL[row, t + 1])
            inputs.append(torch.cat((module.enorm(embedding_D), module.hnorm(hidden_BTD[row, t]))).detach())
            states.append(hidden_BTD[row, t + 1])
    return torch.stack(inputs).double(), torch.stack(states).double()


def test_a_linear_target_is_drafted_by_the_projection_alone() -> None:
    module, some = make_module(CONFIG, None, seed=0), rows(200)
    assert fit_next_state(module, head(), some) < 1e-3
    inputs_MI, states_MD = inputs_and_states(module, some)
    guess_MD = (inputs_MI.float() @ module.eh_proj.weight.detach().T) * module.norm.weight.detach()
    assert float((guess_MD - states_MD).square().mean() / states_MD.square().mean()) < 1e-3


def test_against_least_squares() -> None:
    """The ridge as further rows of the system, as textbooks have it."""
    module, some = make_module(CONFIG, None, seed=0), rows(40, noise=0.5)
    unexplained = fit_next_state(module, head(), some)
    inputs_MI, states_MD = inputs_and_states(module, some)
    scale_D = states_MD.square().mean(dim=0).sqrt()
    ridge_II = torch.eye(2 * SIZE, dtype=torch.float64) * SIZE**0.5
    wanted_MD = torch.cat((states_MD / scale_D, torch.zeros(2 * SIZE, SIZE, dtype=torch.float64)))
    weight_ID = torch.linalg.lstsq(torch.cat((inputs_MI, ridge_II)), wanted_MD).solution
    torch.testing.assert_close(module.eh_proj.weight.double(), weight_ID.T, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(module.norm.weight.double(), scale_D, atol=1e-5, rtol=1e-4)
    left = (states_MD / scale_D - inputs_MI @ weight_ID).square().mean()
    assert unexplained == pytest.approx(float(left), abs=1e-4)


def test_the_layer_is_left_alone() -> None:
    module, before = make_module(CONFIG, None, seed=0), make_module(CONFIG, None, seed=0).state_dict()
    fit_next_state(module, head(), rows(4))
    changed = [name for name, tensor in module.state_dict().items() if not torch.equal(tensor, before[name])]
    assert changed == ["eh_proj.weight", "norm.weight"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_states_that_are_no_numbers_change_nothing(value: float) -> None:
    """The first step says whose they are."""
    module, some = make_module(CONFIG, None, seed=0), rows(4)
    some[0][1][0, 3] = value
    some[0][3][:] = True
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    assert fit_next_state(module, head(), some) != fit_next_state(module, head(), some), "NaN"
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_processes_with_other_rows_fit_on_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    some = rows(8)
    whole, shared = make_module(CONFIG, None, seed=0), make_module(CONFIG, None, seed=0)
    fit_next_state(whole, head(), some)
    sums: list[Tensor] = []
    monkeypatch.setattr(Ranks, "add", lambda self, tensor: sums.append(tensor.clone()))
    fit_next_state(make_module(CONFIG, None, seed=0), head(), some[1:])
    others = iter(sums)
    monkeypatch.setattr(Ranks, "add", lambda self, tensor: tensor.add_(next(others)))
    fit_next_state(shared, head(), some[:1])
    torch.testing.assert_close(shared.state_dict(), whole.state_dict())


def test_a_run_starts_further_on(target_dir: Path, tmp_path: Path) -> None:
    """On the shipped target: what random weights learn in steps that a fit saves, and more with the last layer."""
    text = tmp_path / "text.txt"
    text.write_text((ROOT / "training" / "data" / "batches.py").read_text() * 2)
    config = TrainConfig(
        tokens=2 * 512, sequence_length=64, batch_size=8, num_steps_unrolled=1, warmup_steps=0, learning_rate=1e-9
    )
    losses = []
    for init in ("last-layer", "fitted", "random"):
        inputs = TrainInputs(target=str(target_dir), data=[text], output=tmp_path / init, show_progress=False)
        info = train(replace(config, module_init=init), inputs)
        losses.append(info["held_out"]["loss"])
    assert losses[0] < losses[1] - 0.1, losses
    assert losses[1] < losses[2] - 0.5, losses
