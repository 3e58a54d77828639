"""A projection to start from: the linear map that says most of the target's next hidden state.

At a position the module is given h_t and the embedding of x_{t+1}; from the state h_{t+1} the head would draft what the
target says next. So the projection starts as the least-squares solution of [embedding; h_t] -> h_{t+1}, and the final
norm as the scales of h. From random weights a run spends its first hundreds of steps on that map.
"""

# Shapes: B rows, T tokens, L = T + 1, I = 2 D inputs of the projection, D hidden size, M positions that count.

from collections.abc import Iterable, Iterator
from functools import partial
from math import isfinite

import torch
from torch import Tensor

from vllm_mtp.module.mtp import MTPModule
from vllm_mtp.module.shared_head import SharedHead
from vllm_mtp.training.ranks import Ranks
from vllm_mtp.training.run import Run

Rows = tuple[Tensor, Tensor, Tensor]
"""ids [B, L], the target's hidden states [B, T, D], and whether the token after a position counts [B, T]."""
_TOKENS_PER_INPUT = 64
"""Positions to fit on, for each input of the projection."""
_SHARE_OF_RUN = 8
"""Of a run's tokens the fit reads at most one in so many: the target may have to run over them once more."""


def fit_start(run: Run) -> None:
    """Fits the module of a run at its first step, on the batches that come first."""
    unexplained = fit(run.module, run.target.head, _rows(run), run.ranks)
    run.inputs.say(f"the projection starts from a fit that leaves {unexplained:.0%} of the target's next state")


def _rows(run: Run) -> Iterator[Rows]:
    wanted = min(_TOKENS_PER_INPUT * run.module.eh_proj.in_features, run.config.tokens // _SHARE_OF_RUN)
    num_tokens = 0
    for step in range(min(run.config.num_steps, len(run.batches))):
        index = run.batches.index(step)
        batch = run.batches[index]
        for part in run.ranks.mine(batch.parts(run.ranks.size * run.inputs.accumulate)):
            rows = batch.rows(part)
            yield rows.ids_BL, run.states.hidden_of(index, part), rows.mask_BS
        num_tokens += batch.num_tokens
        if num_tokens >= wanted:
            return


@torch.no_grad()
def fit(module: MTPModule, head: SharedHead, rows: Iterable[Rows], ranks: Ranks | None = None) -> float:
    """Sets the projection and the final norm of a module whose other norms are as `initialize` leaves them.

    Args:
        module: changed.
        head: embeds.
        rows: to fit on.
        ranks: processes that have other rows; all get the same weights.

    Returns:
        The share of the states' second moment that the map leaves; NaN, and the module as it was, where states are no
        numbers or no position counts.
    """
    device, ranks = module.eh_proj.weight.device, ranks or Ranks()
    moments = _Moments(module.eh_proj.in_features, module.eh_proj.out_features, device)
    for ids_BL, hidden_BTD, counts_BT in rows:
        hidden_BTD, embedding_BTD = hidden_BTD.float(), head.embed(ids_BL[:, 1:-1].to(device)).float()
        inputs_BTI = torch.cat((module.enorm(embedding_BTD), module.hnorm(hidden_BTD[:, :-1])), dim=-1)
        counts_BT = counts_BT[:, 1:].to(device)
        moments.add(inputs_BTI[counts_BT], hidden_BTD[:, 1:][counts_BT])
    for sums in moments.all:
        ranks.add(sums)
    weight_ID, scale_D, unexplained = moments.solve()
    if isfinite(unexplained):
        module.eh_proj.weight.copy_(weight_ID.T)
        module.norm.weight.copy_(scale_D)
    return unexplained


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

    def solve(self) -> tuple[Tensor, Tensor, float]:
        """Weights [I, D] of inputs -> state / scale, the scale of each channel [D], and the share that is left.

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
        return weight_ID, scale_D, 1 - float(explained / self.num_positions) / len(scale_D)
