"""K chained draft steps over whole sequences, with the attention that serving has.

At draft step k, position t attends to the step-1 keys of positions 0..t (made from the target's hidden states: what the
KV cache holds after verification) and to its own chain's keys of steps 2..k, never to the same-step states of other
positions. Hidden states are the module's own from step 2 on; the caller says which tokens are fed beside them.
"""

# Shapes: B sequences, T positions, K draft steps, D hidden size, A query heads, C head size.

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from vllm_mtp.module.mtp import MTPModule
from vllm_mtp.training.loss.chain_attention import Keys, chain_attention

Embed = Callable[[int, Tensor], Tensor]
"""Embeddings [B, T, D] to feed at draft step k (from 1), from k and the states [B, T, D] that it is fed with them."""


def unroll(module: MTPModule, hidden_BTD: Tensor, embed: Embed, num_steps: int, *, recompute: bool = False) -> Tensor:
    """Runs K draft steps at every position at once.

    Args:
        module: the MTP module.
        hidden_BTD: the target's h_t, after its final norm, [B, T, D].
        embed: of teacher forcing, the embeddings of x_{t+k} whatever the states.
        num_steps: K.
        recompute: keep of each step what it is given alone, and compute the step again for its gradient.

    Returns:
        The module's outputs, [K, B, T, D]: index k - 1 at position t predicts x_{t+k+1}.
    """
    positions_T = torch.arange(hidden_BTD.size(1), device=hidden_BTD.device)
    steps: list[Keys] = []
    outputs = []
    for k in range(num_steps):
        given = (module, embed(k + 1, hidden_BTD), hidden_BTD, positions_T + k, tuple(steps))
        if recompute:
            hidden_BTD, keys = checkpoint(_step, *given, use_reentrant=False, preserve_rng_state=False)
        else:
            hidden_BTD, keys = _step(*given)
        steps.append(keys)
        outputs.append(hidden_BTD)
    return torch.stack(outputs)


def _step(
    module: MTPModule, embedding_BTD: Tensor, hidden_BTD: Tensor, positions_T: Tensor, before: tuple[Keys, ...]
) -> tuple[Tensor, Keys]:
    """One draft step after others: its output, and its keys and values, those of the first step by head."""
    return through_layer(module, module.fuse(embedding_BTD, hidden_BTD), positions_T, before)


def through_layer(
    module: MTPModule, u_BTD: Tensor, positions_T: Tensor, before: tuple[Keys, ...] = ()
) -> tuple[Tensor, Keys]:
    """What the layer and the final norm make of the projection's outputs, and the layer's keys and values."""
    q_BTAC, k_BTGC, v_BTGC = module.layer.queries_keys_values(u_BTD, positions_T)
    keys = Keys(k_BTGC, v_BTGC)
    if not before:
        keys = keys.by_head(q_BTAC.size(2))
    context, *own = (*before, keys)
    attended_BTAC = chain_attention(q_BTAC, context, own)
    return module.norm(module.layer.finish(u_BTD, attended_BTAC)), keys
