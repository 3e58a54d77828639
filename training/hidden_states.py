"""The target's hidden states of each batch; kept in memory where the data repeats, so that the target runs once."""

# Shapes: B sequences, T tokens, D hidden size.

import logging

from torch import Tensor

from vllm_mtp.training.data import PackedWindows
from vllm_mtp.training.target import FrozenTarget

logger = logging.getLogger(__name__)

MAX_KEPT_BYTES = 4 * 2**30


class HiddenStates:
    """Hidden states by batch index.

    A batch has the same windows in every epoch, so that its states are made by the same forward pass whenever they are
    needed, and a resumed run, which has none in memory, makes the very same again.
    """

    def __init__(self, target: FrozenTarget, windows: PackedWindows, num_steps: int) -> None:
        self._target, self._windows = target, windows
        self._kept: dict[int, Tensor] | None = None
        if num_steps <= windows.num_batches:
            return
        num_bytes = windows.train_WL.numel() * target.config.hidden_size * target.dtype.itemsize
        if num_bytes <= MAX_KEPT_BYTES:
            self._kept = {}
        else:
            logger.warning(
                "The data repeats, but its hidden states would need %.1f GiB, more than %.0f: the target runs in every "
                "epoch. --data-tokens reads less of the data.",
                num_bytes / 2**30,
                MAX_KEPT_BYTES / 2**30,
            )

    def __call__(self, index: int) -> Tensor:
        """Hidden states of a batch, [B, T, D], on the target's device."""
        if self._kept is None:
            return self._target.hidden_states(self._windows.batch(index)[:, :-1])
        if index not in self._kept:
            self._kept[index] = self._target.hidden_states(self._windows.batch(index)[:, :-1]).cpu()
        return self._kept[index].to(self._target.device)
