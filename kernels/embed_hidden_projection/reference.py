"""The entry of an MTP module in plain PyTorch: what runs where there is no GPU, and the oracle of the kernel."""

# Shapes: T tokens, V vocabulary, D hidden size, N outputs, C = 2D.

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vllm_mtp.kernels.common.precision import wide


class ProjectionArguments(NamedTuple):
    """Arguments of the operator."""

    ids_T: Tensor | None
    """Token ids; None: `embedding` has their rows already."""
    embedding: Tensor
    """The table [V, D], or rows [T, D]."""
    hidden_TD: Tensor
    weight_NC: Tensor
    """In the dtype of embedding and hidden states."""
    embed_norm_D: Tensor
    hidden_norm_D: Tensor
    eps: float


def embed_hidden_projection(a: ProjectionArguments) -> Tensor:
    """u = W [norm(E x) g_e; norm(h) g_h], [T, N]."""
    rows_TD = a.embedding if a.ids_T is None else F.embedding(a.ids_T, a.embedding)
    halves = _normed(rows_TD, a.embed_norm_D, a.eps), _normed(a.hidden_TD, a.hidden_norm_D, a.eps)
    return F.linear(torch.cat(halves, dim=-1).to(a.weight_NC.dtype), a.weight_NC)


def _normed(x_TD: Tensor, norm_D: Tensor, eps: float) -> Tensor:
    x_TD = wide(x_TD)
    return x_TD * x_TD.square().mean(-1, keepdim=True).add(eps).rsqrt() * wide(norm_D)
