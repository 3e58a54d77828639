"""Attention of a later draft step: over the step-1 keys of the context, and over the keys of its own chain.

A position's own chain is one key a step, so that no mask [T, kT] is needed: flash attention over the step-1 keys gives
its output and log-sum-exp, the few scores of the chain are joined to them by hand. Backward hands flash attention the
output and log-sum-exp of both together, from which it makes the gradient of its part of the softmax.

`masked_attention` is the same by a mask, and what runs where torch has no such operator.

Source of the joined softmax: Dao et al., FlashAttention (arXiv 2205.14135); of its backward by parts, Liu et al., Ring
Attention (arXiv 2310.01889).
"""

# Shapes: B sequences, T positions, A query heads, G key-value heads, R query heads of one of them, C head size, I draft
# steps after the first.

import functools
import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

logger = logging.getLogger(__name__)

_aten = torch.ops.aten
_NUM_STATE = 4
_MAX_ERROR = 0.1
"""Relative, of a probe against a mask: bfloat16 is off by 0.01, an operator that computes something else by 1."""


class Keys(NamedTuple):
    """Keys and values of one draft step at every position."""

    k_BTGC: Tensor
    v_BTGC: Tensor

    def by_head(self, num_heads: int) -> "Keys":
        """Of every query head what its key-value head has, [B, T, A, C]."""
        return Keys(*(x_BTGC.repeat_interleave(num_heads // x_BTGC.size(2), dim=2) for x_BTGC in self))


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
        out_BATC, log_sum_BAT, state, ctx.lengths = _flash(q_BTAC.transpose(1, 2), k_BATC, v_BATC)
        q_BTGRC = _by_group(q_BTAC, own[0])
        scores_BTGRI = torch.stack([_products(q_BTGRC, k_BTGC) for k_BTGC in own[::2]], dim=-1)
        scores_BTGRI = scores_BTGRI * q_BTAC.size(-1) ** -0.5
        context_BTGR = _by_group(log_sum_BAT.transpose(1, 2), own[0])
        log_sum_BTGR = torch.logaddexp(context_BTGR, scores_BTGRI.logsumexp(-1))
        shares_BTGRI = (scores_BTGRI - log_sum_BTGR[..., None]).exp()
        attended_BTGRC = _by_group(out_BATC.transpose(1, 2), own[0]) * (context_BTGR - log_sum_BTGR).exp()[..., None]
        for share_BTGR, v_BTGC in zip(shares_BTGRI.unbind(-1), own[1::2], strict=True):
            attended_BTGRC = torch.addcmul(attended_BTGRC, share_BTGR[..., None], v_BTGC[..., None, :])
        attended_BTAC = attended_BTGRC.flatten(2, 3)
        # A cast to its own dtype loses the gradient where torch 2.11 compiles it.
        if attended_BTAC.dtype != q_BTAC.dtype:
            attended_BTAC = attended_BTAC.to(q_BTAC.dtype)
        ctx.save_for_backward(q_BTAC, k_BATC, v_BATC, attended_BTAC, log_sum_BTGR, shares_BTGRI, *state, *own)
        return attended_BTAC

    @staticmethod
    def backward(ctx: Any, grad_BTAC: Tensor) -> tuple[Tensor, ...]:
        q_BTAC, k_BATC, v_BATC, attended_BTAC, log_sum_BTGR, shares_BTGRI, *rest = ctx.saved_tensors
        state, own = rest[:_NUM_STATE], rest[_NUM_STATE:]
        of_flash = (q_BTAC.transpose(1, 2), k_BATC, v_BATC, attended_BTAC.transpose(1, 2))
        log_sum_BAT = log_sum_BTGR.flatten(2, 3).transpose(1, 2).contiguous()  # a GPU's operator reads no strides
        grad_q_BATC, grad_k_BATC, grad_v_BATC = _flash_backward(
            grad_BTAC.transpose(1, 2), *of_flash, log_sum_BAT, state, ctx.lengths
        )
        wide = shares_BTGRI.dtype
        q_BTGRC, grad_BTGRC = (_by_group(x_BTAC, own[0]).to(wide) for x_BTAC in (q_BTAC, grad_BTAC))
        grad_q_BTGRC = _by_group(grad_q_BATC.transpose(1, 2), own[0]).to(wide)
        mean_BTGR = (grad_BTGRC * _by_group(attended_BTAC, own[0])).sum(-1)
        grad_own: list[Tensor] = []
        for share_BTGR, k_BTGC, v_BTGC in zip(shares_BTGRI.unbind(-1), own[::2], own[1::2], strict=True):
            through_BTGR = share_BTGR * (_products(grad_BTGRC, v_BTGC) - mean_BTGR) * q_BTAC.size(-1) ** -0.5
            grad_q_BTGRC = torch.addcmul(grad_q_BTGRC, through_BTGR[..., None], k_BTGC[..., None, :].to(wide))
            of_keys = (through_BTGR[..., None] * q_BTGRC).sum(3)
            of_values = (share_BTGR[..., None] * grad_BTGRC).sum(3)
            grad_own += [of_keys.to(k_BTGC.dtype), of_values.to(v_BTGC.dtype)]
        return (grad_q_BTGRC.flatten(2, 3).to(q_BTAC.dtype), grad_k_BATC, grad_v_BATC, *grad_own)


def _by_group(x_BTA: Tensor, like_BTGC: Tensor) -> Tensor:
    """[B, T, A, ...] as [B, T, G, R, ...]: the query heads of each key-value head together."""
    by_group: Tensor = x_BTA.unflatten(2, (like_BTGC.size(2), -1))
    return by_group


def _products(x_BTGRC: Tensor, y_BTGC: Tensor) -> Tensor:
    """Scalar products of every query head with its key-value head, [B, T, G, R], in float32 or wider."""
    wide = torch.promote_types(x_BTGRC.dtype, torch.float32)
    return (x_BTGRC.to(wide) * y_BTGC[..., None, :]).sum(-1)


def _flash(
    q_BATC: Tensor, k_BATC: Tensor, v_BATC: Tensor
) -> tuple[Tensor, Tensor, tuple[Tensor | None, ...], tuple[int, ...]]:
    """Causal attention: output, log-sum-exp of the scores [B, A, T], and what its backward takes besides: _NUM_STATE
    tensors, where it has them, and two lengths."""
    if q_BATC.device.type == "cpu":
        out_BATC, log_sum_BAT = _aten._scaled_dot_product_flash_attention_for_cpu(q_BATC, k_BATC, v_BATC, 0.0, True)
        return out_BATC, log_sum_BAT, (None,) * _NUM_STATE, ()
    found = _aten._scaled_dot_product_flash_attention(q_BATC, k_BATC, v_BATC, 0.0, True)
    out_BATC, log_sum_BAT, cum_q, cum_k, max_q, max_k, seed, offset, _ = found
    return out_BATC, log_sum_BAT, (cum_q, cum_k, seed, offset), (max_q, max_k)


def _flash_backward(
    grad_BATC: Tensor,
    q_BATC: Tensor,
    k_BATC: Tensor,
    v_BATC: Tensor,
    out_BATC: Tensor,
    log_sum_BAT: Tensor,
    state: Sequence[Tensor | None],
    lengths: tuple[int, ...],
) -> tuple[Tensor, Tensor, Tensor]:
    tensors = (grad_BATC, q_BATC, k_BATC, v_BATC, out_BATC, log_sum_BAT)
    if q_BATC.device.type == "cpu":
        return _aten._scaled_dot_product_flash_attention_for_cpu_backward(*tensors, 0.0, True)  # type: ignore[no-any-return]
    cum_q, cum_k, seed, offset = state
    return _aten._scaled_dot_product_flash_attention_backward(  # type: ignore[no-any-return]
        *tensors, cum_q, cum_k, *lengths, 0.0, True, seed, offset
    )


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _is_supported(device: torch.device, dtype: torch.dtype, head_dim: int) -> bool:
    """Asked once, and not in a graph that is compiled."""
    return _does_what_a_mask_does(device, dtype, head_dim)


@functools.cache
def _does_what_a_mask_does(device: torch.device, dtype: torch.dtype, head_dim: int) -> bool:
    """Whether torch's operators do here what they should: on a small example, both ways, as by a mask.

    The first question comes inside a draft step, whose tensors `checkpoint` may be counting: these are not of the step.
    """
    generator = torch.Generator().manual_seed(0)
    examples = [torch.randn(2, 5, heads, head_dim, generator=generator) for heads in (2, 2, 2, 1, 1)]
    tensors = [example.to(device, dtype).requires_grad_() for example in examples]
    q_BTAC, context, own = tensors[0], Keys(*tensors[1:3]), [Keys(*tensors[3:])]
    found = []
    for attention in (flash_attention, masked_attention):
        try:
            with torch.enable_grad(), torch.autocast(device.type, enabled=False), _uncounted():
                attended_BTAC = attention(q_BTAC, context, own)
                grads = torch.autograd.grad(attended_BTAC.square().sum(), tensors)
                found.append([attended_BTAC.detach(), *grads])
        except (RuntimeError, AttributeError, TypeError, ValueError) as error:
            logger.warning("draft steps attend by a mask, which is slower: %s", error)
            return False
    return all((one - other).norm() < _MAX_ERROR * other.norm() for one, other in zip(*found, strict=True))


def _uncounted() -> AbstractContextManager[Any]:
    """Tensors that autograd keeps stay out of the sight of whoever keeps them in a way of his own."""
    return torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor)
