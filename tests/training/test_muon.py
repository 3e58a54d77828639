"""Muon in float32: torch's optimizer within what bfloat16 rounds away, its state and checkpoints; who has it."""

# Shapes: A rows, B columns of a weight.

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.drafts import small_config
from vllm_mtp.module.mtp import MTPModule
from vllm_mtp.training.config import TrainConfig
from vllm_mtp.training.muon import Float32Muon, orthogonalized
from vllm_mtp.training.optimizers import make_optimizers

SHAPES = [(24, 40), (40, 24), (32, 32)]
SETTINGS: list[dict[str, Any]] = [
    {"lr": 0.02, "weight_decay": 0.0, "adjust_lr_fn": "original"},
    {"lr": 0.1, "weight_decay": 0.1, "nesterov": False, "adjust_lr_fn": "match_rms_adamw"},
]


def weights(how: type[torch.optim.Muon], settings: dict[str, Any], *turns: type[torch.optim.Muon]) -> list[Tensor]:
    """Weights after three steps of an optimizer, and three of each of the others, which go on from its state."""
    generator = torch.Generator().manual_seed(0)
    parameters = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]
    optimizer = how(parameters, **settings)
    for turn in (how, *turns):
        state, optimizer = optimizer.state_dict(), turn(parameters, **settings)
        optimizer.load_state_dict(state)
        for _ in range(3):
            for parameter in parameters:
                parameter.grad = torch.randn(parameter.shape, generator=generator)
            optimizer.step()
    return [parameter.detach() for parameter in parameters]


@pytest.mark.parametrize("settings", SETTINGS)
def test_it_is_torchs_within_rounding(settings: dict[str, Any]) -> None:
    start = weights(Float32Muon, settings | {"lr": 0.0})
    ours, theirs = weights(Float32Muon, settings), weights(torch.optim.Muon, settings)
    mixed = weights(torch.optim.Muon, settings, Float32Muon), weights(Float32Muon, settings, torch.optim.Muon)
    for pairs in (zip(ours, theirs, start, strict=True), zip(*mixed, start, strict=True)):
        for one, other, before in pairs:
            assert 0 < (one - other).norm() < 0.02 * (other - before).norm()


@pytest.mark.parametrize("shape", SHAPES)
def test_every_singular_value_goes_through_the_polynomial(shape: tuple[int, int]) -> None:
    matrix_AB = 7 * torch.randn(shape, generator=torch.Generator().manual_seed(0))
    a, b, c = 3.4445, -4.775, 2.0315
    left, values, right = torch.linalg.svd(matrix_AB.double() / matrix_AB.double().norm(), full_matrices=False)
    for _ in range(5):
        values = a * values + b * values**3 + c * values**5
    expected_AB = left @ values.diag() @ right
    torch.testing.assert_close(orthogonalized(matrix_AB, (a, b, c), 5, 1e-7).double(), expected_AB, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("dtype", "device", "expected"),
    [
        (torch.float32, "cpu", Float32Muon),
        (torch.float16, "cpu", Float32Muon),
        (torch.bfloat16, "cpu", torch.optim.Muon),
        (torch.float32, "meta", torch.optim.Muon),
    ],
)
def test_which_runs_have_it(dtype: torch.dtype, device: str, expected: type[torch.optim.Muon]) -> None:
    """Where the target runs in bfloat16, and on a GPU, torch's is the faster one."""
    module = MTPModule(small_config()).to(device)
    muon, rest = make_optimizers(module, TrainConfig(), dtype)
    assert type(muon) is expected
    assert type(rest) is torch.optim.AdamW
