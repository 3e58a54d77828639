"""The entry of an MTP module in plain PyTorch: what runs where there is no GPU, and the oracle of the kernels."""

# Shapes: T tokens, V vocabulary, D hidden size, N outputs, C = 2D.

import torch
import torch.nn.functional as F
from torch import Tensor

from vllm_mtp.kernels.common.precision import wide

ORDERS = ("embed_hidden", "hidden_embed")
"""Which half of c, and of w's columns, comes first."""


def embed_hidden_projection(
    ids: Tensor | None,
    emb: Tensor,
    h: Tensor,
    w: Tensor,
    g_e: Tensor | None = None,
    g_h: Tensor | None = None,
    *,
    eps: float,
    positions: Tensor | None = None,
    unit_offset: bool = False,
    order: str = "embed_hidden",
    one_launch: bool | None = None,
) -> Tensor:
    """`ops.embed_hidden_projection`; its gradients are autograd's own. `one_launch` is of no meaning here."""
    return embed_hidden_projection_forward(
        ids, emb, h, w, g_e, g_h, positions, eps, order == "embed_hidden", unit_offset
    )


def fold_norm_weights(
    w: Tensor, g_e: Tensor, g_h: Tensor, *, unit_offset: bool = False, order: str = "embed_hidden"
) -> Tensor:
    """w with both norm weights multiplied into its columns: `embed_hidden_projection` then takes neither.

    The product is rounded to w's dtype once, instead of c at every token.

    Raises:
        ValueError: for an order that does not exist.
    """
    check_order(order)
    g_C = torch.cat((g_e, g_h) if order == "embed_hidden" else (g_h, g_e)).to(wide(w).dtype)
    return (wide(w) * (1 + g_C if unit_offset else g_C)).to(w.dtype)


def check_order(order: str) -> None:
    if order not in ORDERS:
        raise ValueError(f"order: expected {' or '.join(ORDERS)}, got {order!r}")


def embed_hidden_projection_forward(
    ids_T: Tensor | None,
    embedding: Tensor,
    hidden_TD: Tensor,
    weight_NC: Tensor,
    embed_norm_D: Tensor | None,
    hidden_norm_D: Tensor | None,
    positions_T: Tensor | None,
    eps: float,
    embed_first: bool,
    unit_offset: bool,
    one_launch: bool | None = None,
) -> Tensor:
    """u = W [norm(E x) g_e; norm(h) g_h].

    Args:
        ids_T: token ids; None: `embedding` has their rows already.
        embedding: the table [V, D], or rows [T, D].
        hidden_TD: the target's hidden states, or the module's own of the draft step before.
        weight_NC: W, in the dtype of embedding and hidden states.
        embed_norm_D: g_e; None where it is folded into W.
        hidden_norm_D: g_h.
        positions_T: where it is 0, the embedding counts as 0; None: it never does.
        eps: of the norms.
        embed_first: whether W's first D columns are the embedding's, or the hidden state's.
        unit_offset: whether norms multiply by 1 + g.
        one_launch: of no meaning here.

    Returns:
        u, [T, N].
    """
    normed_TC = _concatenated(
        _embedding_rows(ids_T, embedding, positions_T),
        hidden_TD,
        embed_norm_D,
        hidden_norm_D,
        eps,
        embed_first,
        unit_offset,
    )
    return F.linear(normed_TC.to(weight_NC.dtype), weight_NC)


def embed_hidden_projection_backward(
    gradient_TN: Tensor,
    ids_T: Tensor | None,
    embedding: Tensor,
    hidden_TD: Tensor,
    weight_NC: Tensor,
    embed_norm_D: Tensor | None,
    hidden_norm_D: Tensor | None,
    positions_T: Tensor | None,
    eps: float,
    embed_first: bool,
    unit_offset: bool,
    for_hidden: bool,
    for_weight: bool,
    for_norms: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of hidden_TD, weight_NC, embed_norm_D and hidden_norm_D; empty where not wanted."""
    size = hidden_TD.size(1)
    rows_TD = _embedding_rows(ids_T, embedding, positions_T)
    of_hidden_TD, of_weight_NC, of_embed_norm_D, of_hidden_norm_D = (hidden_TD.new_empty(0) for _ in range(4))
    if for_weight:
        normed_TC = _concatenated(rows_TD, hidden_TD, embed_norm_D, hidden_norm_D, eps, embed_first, unit_offset)
        of_weight_NC = gradient_TN.T @ normed_TC.to(weight_NC.dtype)
    if for_hidden or for_norms:
        halves = (gradient_TN @ weight_NC).split(size, dim=1)
        of_embed_half_TD, of_hidden_half_TD = halves if embed_first else halves[::-1]
        if for_norms and embed_norm_D is not None:
            normed_TD, _ = _normed(rows_TD, eps)
            of_embed_norm_D = (wide(of_embed_half_TD) * normed_TD).sum(0).to(embed_norm_D.dtype)
        normed_TD, inverse_rms_T1 = _normed(hidden_TD, eps)
        d_TD = wide(of_hidden_half_TD)
        if for_norms and hidden_norm_D is not None:
            of_hidden_norm_D = (d_TD * normed_TD).sum(0).to(hidden_norm_D.dtype)
        if for_hidden:
            d_TD = _times_norm_weight(d_TD, hidden_norm_D, unit_offset)
            d_TD = (d_TD - normed_TD * (d_TD * normed_TD).mean(-1, keepdim=True)) * inverse_rms_T1
            of_hidden_TD = d_TD.to(hidden_TD.dtype)
    return of_hidden_TD, of_weight_NC, of_embed_norm_D, of_hidden_norm_D


def _embedding_rows(ids_T: Tensor | None, embedding: Tensor, positions_T: Tensor | None) -> Tensor:
    rows_TD = embedding if ids_T is None else F.embedding(ids_T, embedding)
    return rows_TD if positions_T is None else rows_TD.masked_fill((positions_T == 0)[:, None], 0.0)


def _normed(x_TD: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """x / rms(x), and 1 / rms(x), [T, 1]."""
    x_TD = wide(x_TD)
    inverse_rms_T1 = x_TD.square().mean(-1, keepdim=True).add(eps).rsqrt()
    return x_TD * inverse_rms_T1, inverse_rms_T1


def _times_norm_weight(x_TD: Tensor, norm_D: Tensor | None, unit_offset: bool) -> Tensor:
    if norm_D is None:
        return x_TD
    return x_TD * (1.0 + wide(norm_D) if unit_offset else wide(norm_D))


def _concatenated(
    rows_TD: Tensor,
    hidden_TD: Tensor,
    embed_norm_D: Tensor | None,
    hidden_norm_D: Tensor | None,
    eps: float,
    embed_first: bool,
    unit_offset: bool,
) -> Tensor:
    embed_TD = _times_norm_weight(_normed(rows_TD, eps)[0], embed_norm_D, unit_offset)
    normed_TD = _times_norm_weight(_normed(hidden_TD, eps)[0], hidden_norm_D, unit_offset)
    return torch.cat((embed_TD, normed_TD) if embed_first else (normed_TD, embed_TD), dim=-1)
