"""Attention of a later draft step: over the step-1 keys of the context, and over the keys of its own chain.

A position's own chain is one key a step, so that no mask [T, kT] is needed: flash attention over the step-1 keys gives
its output and log-sum-exp, the few scores of the chain are joined to them by hand. Backward hands flash attention the
output and log-sum-exp of both together, from which it makes the gradient of its part of the softmax.

`masked_attention` is the same by a mask, and what runs where torch has no such operator.

Source of the joined softmax: Dao et al., FlashAttention (arXiv 2205.14135); of its backward by parts, Liu et al., Ring
Attention (arXiv 2310.01889).
"""

# Shapes: B sequences, T positions, A query heads, G key-value heads, R query heads of one of them, C head size.

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

_aten = torch.ops.aten
_MAX_ERROR = 0.1
"""Relative, of a probe against a mask: bfloat16 is off by 0.01, an operator that computes something else by 1."""


class Keys(NamedTuple):
    """Keys and values of one draft step at every position."""

    k_BTGC: Tensor
    v_BTGC: Tensor

    def by_head(self, num_heads: int) -> "Keys":
        """Of every query head what its key-value head has, [B, T, A, C]."""
        return Keys(*(_of_heads(x_BTGC, num_heads) for x_BTGC in self))


def chain_attention(q_BTAC: Tensor, context: Keys, own: Sequence[Keys]) -> Tensor:
    """Attention of a draft step at every position at once.

    Args:
        q_BTAC: rotated queries.
        context: rotated keys and values of the first draft step, by head: G is A.
        own: those of the later steps up to this one; none at the first step.

    Returns:
        [B, T, A, C].
    """
    if own and not _is_supported(q_BTAC.device, q_BTAC.dtype, q_BTAC.size(-1)):
        return masked_attention(q_BTAC, context, own)
    return flash_attention(q_BTAC, context, own)


def flash_attention(q_BTAC: Tensor, context: Keys, own: Sequence[Keys]) -> Tensor:
    """`chain_attention` where no mask exists."""
    q_BATC, k_BATC, v_BATC = (x_BTAC.transpose(1, 2) for x_BTAC in (q_BTAC, *context))
    if not own:
        return F.scaled_dot_product_attention(q_BATC, k_BATC, v_BATC, is_causal=True).transpose(1, 2)
    of_own = (x_BTGC for keys in own for x_BTGC in keys)
    return _ChainAttention.apply(q_BTAC, k_BATC, v_BATC, *of_own)  # type: ignore[no-any-return,no-untyped-call]


def masked_attention(q_BTAC: Tensor, context: Keys, own: Sequence[Keys]) -> Tensor:
    """`chain_attention` by a mask: what it computes, in the open."""
    steps = [context, *(keys.by_head(q_BTAC.size(2)) for keys in own)]
    k_BATC, v_BATC = (torch.cat(x_BTAC, dim=1).transpose(1, 2) for x_BTAC in zip(*steps, strict=True))
    mask = chain_mask(q_BTAC.size(1), len(steps), q_BTAC.device)
    return F.scaled_dot_product_attention(q_BTAC.transpose(1, 2), k_BATC, v_BATC, attn_mask=mask).transpose(1, 2)


def chain_mask(num_positions: int, num_steps: int, device: torch.device) -> Tensor:
    """Which keys a position sees, [T, num_steps * T]: those of step 1 up to it, of later steps its own."""
    positions_T = torch.arange(num_positions, device=device)
    context_TT = positions_T <= positions_T[:, None]
    own_TT = positions_T == positions_T[:, None]
    return torch.cat([context_TT] + [own_TT] * (num_steps - 1), dim=1)


class _ChainAttention(torch.autograd.Function):
    """Of queries, keys and values of the context, then keys and values of each further step."""

    @staticmethod
    def forward(ctx: Any, q_BTAC: Tensor, k_BATC: Tensor, v_BATC: Tensor, *own: Tensor) -> Tensor:
        keys, values = own[::2], own[1::2]
        out_BATC, log_sum_BAT, ctx.rest = _flash(q_BTAC.transpose(1, 2), k_BATC, v_BATC)
        scores_BTAI = torch.stack([_products(q_BTAC, key) for key in keys], dim=-1) * q_BTAC.size(-1) ** -0.5
        context_BTA = log_sum_BAT.transpose(1, 2)
        log_sum_BTA = torch.logaddexp(context_BTA, scores_BTAI.logsumexp(-1))
        shares_BTAI = (scores_BTAI - log_sum_BTA[..., None]).exp()
        attended_BTAC = out_BATC.transpose(1, 2) * (context_BTA - log_sum_BTA).exp()[..., None]
        for share_BTA, value in zip(shares_BTAI.unbind(-1), values, strict=True):
            attended_BTAC = attended_BTAC + share_BTA[..., None] * _of_heads(value, q_BTAC.size(2))
        attended_BTAC = attended_BTAC.to(q_BTAC.dtype)
        ctx.save_for_backward(q_BTAC, k_BATC, v_BATC, attended_BTAC, log_sum_BTA, shares_BTAI, *own)
        return attended_BTAC

    @staticmethod
    def backward(ctx: Any, grad_BTAC: Tensor) -> tuple[Tensor, ...]:
        q_BTAC, k_BATC, v_BATC, attended_BTAC, log_sum_BTA, shares_BTAI, *own = ctx.saved_tensors
        keys, values = own[::2], own[1::2]
        grad_q_BATC, grad_k_BATC, grad_v_BATC = _flash_backward(
            *(grad_BTAC.transpose(1, 2), q_BTAC.transpose(1, 2), k_BATC, v_BATC),
            *(attended_BTAC.transpose(1, 2), log_sum_BTA.transpose(1, 2)),
            ctx.rest,
        )
        wide_BTAC = grad_BTAC.to(shares_BTAI.dtype)
        mean_BTA = (wide_BTAC * attended_BTAC).sum(-1)
        grad_q_BTAC = grad_q_BATC.transpose(1, 2).to(shares_BTAI.dtype)
        grad_own = []
        for share_BTA, key, value in zip(shares_BTAI.unbind(-1), keys, values, strict=True):
            through_BTA = _products(grad_BTAC, value) - mean_BTA
            grad_BTA = (share_BTA * through_BTA * q_BTAC.size(-1) ** -0.5)[..., None]
            grad_q_BTAC = grad_q_BTAC + grad_BTA * _of_heads(key, q_BTAC.size(2))
            grad_own += [_of_groups(grad_BTA * q_BTAC, key), _of_groups(share_BTA[..., None] * wide_BTAC, value)]
        return (grad_q_BTAC.to(q_BTAC.dtype), grad_k_BATC, grad_v_BATC, *grad_own)


def _products(x_BTAC: Tensor, y_BTGC: Tensor) -> Tensor:
    """Scalar products of every query head with its key-value head, [B, T, A], in float32 or wider."""
    wide = torch.promote_types(x_BTAC.dtype, torch.float32)
    return (x_BTAC.to(wide) * _of_heads(y_BTGC, x_BTAC.size(2))).sum(-1)


def _of_heads(x_BTGC: Tensor, num_heads: int) -> Tensor:
    """[B, T, A, C]: of every query head, what its key-value head has."""
    return x_BTGC.repeat_interleave(num_heads // x_BTGC.size(2), dim=2)


def _of_groups(x_BTAC: Tensor, like_BTGC: Tensor) -> Tensor:
    """Sums over the query heads of each key-value head, [B, T, G, C], in that one's dtype."""
    sums_BTGC: Tensor = x_BTAC.unflatten(2, (like_BTGC.size(2), -1)).sum(3)
    return sums_BTGC.to(like_BTGC.dtype)


def _flash(q_BATC: Tensor, k_BATC: Tensor, v_BATC: Tensor) -> tuple[Tensor, Tensor, tuple[Any, ...]]:
    """Causal attention: output, log-sum-exp of the scores [B, A, T], and what its backward takes besides."""
    if q_BATC.device.type == "cpu":
        out_BATC, log_sum_BAT = _aten._scaled_dot_product_flash_attention_for_cpu(q_BATC, k_BATC, v_BATC, 0.0, True)
        return out_BATC, log_sum_BAT, ()
    out_BATC, log_sum_BAT, *rest = _aten._scaled_dot_product_flash_attention(q_BATC, k_BATC, v_BATC, 0.0, True)
    cum_q, cum_k, max_q, max_k, seed, offset, _ = rest
    return out_BATC, log_sum_BAT, (cum_q, cum_k, max_q, max_k, 0.0, True, seed, offset)


def _flash_backward(
    grad_BATC: Tensor,
    q_BATC: Tensor,
    k_BATC: Tensor,
    v_BATC: Tensor,
    out_BATC: Tensor,
    log_sum_BAT: Tensor,
    rest: tuple[Any, ...],
) -> tuple[Tensor, Tensor, Tensor]:
    tensors = (grad_BATC, q_BATC, k_BATC, v_BATC, out_BATC, log_sum_BAT)
    if q_BATC.device.type == "cpu":
        return _aten._scaled_dot_product_flash_attention_for_cpu_backward(*tensors, 0.0, True)  # type: ignore[no-any-return]
    return _aten._scaled_dot_product_flash_attention_backward(*tensors, *rest)  # type: ignore[no-any-return]


@functools.cache
def _is_supported(device: torch.device, dtype: torch.dtype, head_dim: int) -> bool:
    """Whether torch's operators do here what they should: on a small example, both ways, as by a mask."""
    generator = torch.Generator().manual_seed(0)
    examples = [torch.randn(2, 5, heads, head_dim, generator=generator) for heads in (2, 2, 2, 1, 1)]
    tensors = [example.to(device, dtype).requires_grad_() for example in examples]
    q_BTAC, context, own = tensors[0], Keys(*tensors[1:3]), [Keys(*tensors[3:])]
    found = []
    for attention in (flash_attention, masked_attention):
        try:
            with torch.enable_grad(), torch.autocast(device.type, enabled=False):
                attended_BTAC = attention(q_BTAC, context, own)
                found.append([attended_BTAC, *torch.autograd.grad(attended_BTAC.square().sum(), tensors)])
        except (RuntimeError, AttributeError):
            return False
    return all((one - other).norm() < _MAX_ERROR * other.norm() for one, other in zip(*found, strict=True))
