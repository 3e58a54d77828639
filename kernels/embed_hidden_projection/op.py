"""The entry of an MTP module: `embed_hidden_projection`, checked, and registered with torch."""

# Shapes: T tokens, V vocabulary, D hidden size, N outputs, C = 2D.

from typing import Any

import torch
from torch import Tensor

from vllm_mtp.kernels.common.registration import register
from vllm_mtp.kernels.embed_hidden_projection import reference


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
    """u = c w^T with c = [norm(emb[ids]) * g_e ; norm(h) * g_h], norm(x) = x / sqrt(mean x^2 + eps).

    Differentiable once in h, w, g_e and g_h; the embedding is the target's and frozen. For backward, only the arguments
    are kept.

    Args:
        ids: token ids, int64 or int32 [T]; None: `emb` has their rows already, as where the table lies on several
            ranks.
        emb: the embedding's table, [V, D], or rows [T, D].
        h: the target's hidden states, or the module's own of the draft step before, [T, D].
        w: the projection, [N, 2D].
        g_e: the embedding's norm weight, [D]; None where it is folded into w (`fold_norm_weights`).
        g_h: the hidden state's, likewise.
        eps: of both norms.
        positions: int64 [T]: at position 0 the embedding counts as 0, as DeepSeek's module has it; None: never.
        unit_offset: norms multiply by 1 + g.
        order: "embed_hidden" or "hidden_embed": which half of c comes first.
        one_launch: the form on a GPU: everything in one launch, or the norms in one and the library's product after
            it; None: by architecture and number of tokens.

    Returns:
        u, [T, N].

    Raises:
        ValueError: for shapes, dtypes or options that do not fit together, or an embedding that wants a gradient.
    """
    _check(ids, emb, h, w, g_e, g_h, positions, order)
    h, emb = (x if x.stride(-1) == 1 else x.contiguous() for x in (h, emb))
    ids, positions, g_e, g_h = (x if x is None else x.contiguous() for x in (ids, positions, g_e, g_h))
    output: Tensor = _operator(
        ids, emb, h, w, g_e, g_h, positions, eps, order == "embed_hidden", unit_offset, one_launch
    )
    return output


def _check(
    ids: Tensor | None,
    emb: Tensor,
    h: Tensor,
    w: Tensor,
    g_e: Tensor | None,
    g_h: Tensor | None,
    positions: Tensor | None,
    order: str,
) -> None:
    reference.check_order(order)
    if h.dim() != 2 or w.dim() != 2 or w.size(1) != 2 * h.size(1):
        raise ValueError(f"Expected h [T, D] and w [N, 2D], got {list(h.shape)} and {list(w.shape)}")
    num_tokens, size = h.shape
    if emb.dim() != 2 or emb.size(1) != size or (ids is None and emb.size(0) != num_tokens):
        expected = f"[{num_tokens}, {size}], a row for each token" if ids is None else f"a table [V, {size}]"
        raise ValueError(f"emb: expected {expected}, got {list(emb.shape)}")
    if not emb.dtype == h.dtype == w.dtype:
        raise ValueError(f"emb, h, w: expected one dtype, got {emb.dtype}, {h.dtype}, {w.dtype}")
    if w.stride(1) != 1:
        raise ValueError("w: expected rows without gaps between their numbers, got a transposed or strided tensor")
    for name, vector, length in (("ids", ids, num_tokens), ("positions", positions, num_tokens)):
        if vector is not None and (vector.shape != (length,) or vector.dtype not in (torch.int64, torch.int32)):
            raise ValueError(f"{name}: expected integers [{length}], got {vector.dtype} {list(vector.shape)}")
    for name, norm in (("g_e", g_e), ("g_h", g_h)):
        if norm is not None and norm.shape != (size,):
            raise ValueError(f"{name}: expected [{size}], got {list(norm.shape)}")
    if emb.requires_grad and torch.is_grad_enabled():
        raise ValueError("emb: expected the target's frozen embedding, got one that requires a gradient; detach it")


def _fake(
    ids: Tensor | None,
    emb: Tensor,
    h: Tensor,
    w: Tensor,
    g_e: Tensor | None,
    g_h: Tensor | None,
    positions: Tensor | None,
    eps: float,
    embed_first: bool,
    unit_offset: bool,
    one_launch: bool | None,
) -> Tensor:
    return h.new_empty(h.size(0), w.size(0))


def _fake_backward(
    gradient: Tensor,
    ids: Tensor | None,
    emb: Tensor,
    h: Tensor,
    w: Tensor,
    g_e: Tensor | None,
    g_h: Tensor | None,
    positions: Tensor | None,
    eps: float,
    embed_first: bool,
    unit_offset: bool,
    for_hidden: bool,
    for_weight: bool,
    for_norms: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    def like(x: Tensor | None, wanted: bool) -> Tensor:
        return h.new_empty(0) if x is None or not wanted else x.new_empty(x.shape)

    return like(h, for_hidden), like(w, for_weight), like(g_e, for_norms), like(g_h, for_norms)


def _keep_arguments(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:7])
    ctx.options = inputs[7:10]


def _backward(ctx: Any, gradient_TN: Tensor) -> tuple[Tensor | None, ...]:
    ids, emb, h, w, g_e, g_h, positions = ctx.saved_tensors
    _, _, for_hidden, for_weight, for_embed_norm, for_hidden_norm = ctx.needs_input_grad[:6]
    of_h, of_w, of_g_e, of_g_h = _backward_operator(
        gradient_TN.contiguous(),
        ids,
        emb,
        h,
        w,
        g_e,
        g_h,
        positions,
        *ctx.options,
        for_hidden,
        for_weight,
        for_embed_norm or for_hidden_norm,
    )
    gradients = (
        of_h if for_hidden else None,
        of_w if for_weight else None,
        of_g_e if for_embed_norm else None,
        of_g_h if for_hidden_norm else None,
    )
    return (None, None, *gradients, None, None, None, None, None)


_operator = register(
    "embed_hidden_projection",
    "(Tensor? ids, Tensor emb, Tensor h, Tensor w, Tensor? g_e, Tensor? g_h, Tensor? positions, float eps, "
    "bool embed_first, bool unit_offset, bool? one_launch) -> Tensor",
    reference=reference.embed_hidden_projection_forward,
    triton="embed_hidden_projection.kernel:embed_hidden_projection",
    fake=_fake,
    setup_context=_keep_arguments,
    backward=_backward,
)
_backward_operator = register(
    "embed_hidden_projection_backward",
    "(Tensor gradient, Tensor? ids, Tensor emb, Tensor h, Tensor w, Tensor? g_e, Tensor? g_h, Tensor? positions, "
    "float eps, bool embed_first, bool unit_offset, bool for_hidden, bool for_weight, bool for_norms) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
    reference=reference.embed_hidden_projection_backward,
    triton="embed_hidden_projection.kernel:embed_hidden_projection_backward",
    fake=_fake_backward,
)
