"""A projection to start from: the linear map that says most of the target's next hidden state.

At a position the module is given h_t and the embedding of x_{t+1}; from the state h_{t+1} the head would draft what the
target says next. So the projection starts as the least-squares solution of [embedding; h_t] -> h_{t+1}, and the final
norm as the scales of h. From random weights a run spends its first hundreds of steps on that map.
"""

# Shapes: B rows, T tokens, L = T + 1, I = 2 D inputs of the projection, D hidden size, M positions that count.

from collections.abc import Iterable
from functools import partial
from math import isfinite
from typing import NamedTuple

import torch
from torch import Tensor

from vllm_mtp.module.mtp import MTPModule
from vllm_mtp.module.shared_head import SharedHead
from vllm_mtp.training.ranks import Ranks

Rows = tuple[Tensor, Tensor, Tensor, Tensor]
"""ids [B, L], the target's hidden states [B, T, D], what is wanted of each position [B, T, D], and whether the token
after it counts [B, T]."""


class Fit(NamedTuple):
    """A linear map from the projection's inputs."""

    weight_DI: Tensor
    """Of [embedding; h_t] -> what is wanted / scale."""
    scale_D: Tensor
    """The root mean square of each channel of what is wanted."""
    unexplained: float
    """The share of its second moment that the map leaves; NaN where values are no numbers or no position counts."""


def fit_next_state(module: MTPModule, head: SharedHead, rows: Iterable[Rows], ranks: Ranks | None = None) -> float:
    """Sets the projection and the final norm of a module whose other norms are as `initialize` leaves them.

    Args:
        module: changed, unless nothing could be fitted.
        head: embeds.
        rows: to fit on; what is wanted of them are the hidden states.
        ranks: processes that have other rows; all get the same weights.

    Returns:
        What the fit leaves (`Fit.unexplained`).
    """
    found = fit(module, head, rows, ranks)
    if isfinite(found.unexplained):
        with torch.no_grad():
            module.eh_proj.weight.copy_(found.weight_DI)
            module.norm.weight.copy_(found.scale_D)
    return found.unexplained


@torch.no_grad()
def fit(module: MTPModule, head: SharedHead, rows: Iterable[Rows], ranks: Ranks | None = None) -> Fit:
    """What the projection would best be, for a module as `initialize` leaves it."""
    device, ranks = module.eh_proj.weight.device, ranks or Ranks()
    moments = _Moments(module.eh_proj.in_features, module.eh_proj.out_features, device)
    for ids_BL, hidden_BTD, wanted_BTD, counts_BT in rows:
        embedding_BTD = head.embed(ids_BL[:, 1:-1].to(device)).float()
        inputs_BTI = torch.cat((module.enorm(embedding_BTD), module.hnorm(hidden_BTD[:, :-1].float())), dim=-1)
        counts_BT = counts_BT[:, 1:].to(device)
        moments.add(inputs_BTI[counts_BT], wanted_BTD[:, 1:][counts_BT])
    for sums in moments.all:
        ranks.add(sums)
    return moments.solve()


class _Moments:
    """Sums over positions, in double precision: however many processes and parts share them, the same start."""

    def __init__(self, num_inputs: int, size: int, device: torch.device) -> None:
        zeros = partial(torch.zeros, dtype=torch.float64, device=device)
        self.inputs_II, self.products_ID = zeros(num_inputs, num_inputs), zeros(num_inputs, size)
        self.squares_D, self.num_positions = zeros(size), zeros(1)

    @property
    def all(self) -> tuple[Tensor, ...]:
        return self.inputs_II, self.products_ID, self.squares_D, self.num_positions

    def add(self, inputs_MI: Tensor, next_MD: Tensor) -> None:
        inputs_MI, next_MD = inputs_MI.double(), next_MD.double()
        self.inputs_II += inputs_MI.T @ inputs_MI
        self.products_ID += inputs_MI.T @ next_MD
        self.squares_D += next_MD.square().sum(dim=0)
        self.num_positions += len(next_MD)

    def solve(self) -> Fit:
        """The map of the sums.

        The weights are kept as small as random ones would be, as far as few positions say nothing else: ridge
        regression, its strength from weights of variance 1 / I and a residual of half the state.
        """
        scale_D = (self.squares_D / self.num_positions).sqrt()
        scale_D = scale_D.clamp(min=1e-3 * float(scale_D.mean()))
        products_ID, num_inputs = self.products_ID / scale_D, len(self.inputs_II)
        ridge_I = torch.full_like(self.inputs_II[0], num_inputs / 2)
        factor_II = torch.linalg.cholesky_ex(self.inputs_II + torch.diag(ridge_I)).L
        weight_ID = torch.cholesky_solve(products_ID, factor_II)
        explained = (weight_ID * (2 * products_ID - self.inputs_II @ weight_ID)).sum()
        return Fit(weight_ID.T, scale_D, 1 - float(explained / self.num_positions) / len(scale_D))
