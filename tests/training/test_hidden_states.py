"""Hidden states kept over epochs."""

import logging
from types import SimpleNamespace

import pytest
import torch

from vllm_mtp.training import hidden_states
from vllm_mtp.training.data import PackedWindows
from vllm_mtp.training.hidden_states import HiddenStates


class CountingTarget:
    """Stands in for a target whose hidden states are its token ids."""

    def __init__(self) -> None:
        self.config = SimpleNamespace(hidden_size=1)
        self.dtype, self.device = torch.float32, torch.device("cpu")
        self.num_calls = 0

    def hidden_states(self, ids_BT: torch.Tensor) -> torch.Tensor:
        self.num_calls += 1
        return ids_BT[..., None].float()


def run(num_epochs: int) -> tuple[CountingTarget, PackedWindows]:
    target, windows = CountingTarget(), PackedWindows(torch.arange(9 * 5), 5, batch_size=2, seed=0)
    num_steps = num_epochs * windows.num_batches
    states = HiddenStates(target, windows, num_steps)  # type: ignore[arg-type]
    for step in range(num_steps):
        index = windows.batch_index(step)
        assert torch.equal(states(index)[..., 0], windows.batch(index)[:, :-1].float())
    return target, windows


def test_data_that_repeats_passes_the_target_once() -> None:
    target, windows = run(num_epochs=3)
    assert target.num_calls == windows.num_batches == 4


def test_states_too_large_to_keep_are_made_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(hidden_states, "MAX_KEPT_BYTES", 100)
    with caplog.at_level(logging.WARNING):
        target, windows = run(num_epochs=3)
    assert target.num_calls == 3 * windows.num_batches
    assert "--data-tokens" in caplog.text
