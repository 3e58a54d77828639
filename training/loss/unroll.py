"""K chained draft steps over whole sequences, with the attention that serving has.

At draft step k, position t attends to the step-1 keys of positions 0..t (made from the target's hidden states: what the
KV cache holds after verification) and to its own chain's keys of steps 2..k, never to the same-step states of other
positions. Hidden states are the module's own from step 2 on; the caller says which tokens are fed beside them.
"""

# Shapes: B sequences, T positions, K draft steps, D hidden size, A query heads, C head size.

from collections.abc import Callable

import torch
from torch import Tensor

from vllm_mtp.module.mtp import MTPModule
from vllm_mtp.training.loss.chain_attention import Keys, chain_attention

Embed = Callable[[int, Tensor], Tensor]
"""Embeddings [B, T, D] to feed at draft step k (from 1), from k and the states [B, T, D] that it is fed with them."""


def unroll(module: MTPModule, hidden_BTD: Tensor, embed: Embed, num_steps: int) -> Tensor:
    """Runs K draft steps at every position at once.

    Args:
        module: the MTP module.
        hidden_BTD: the target's h_t, after its final norm, [B, T, D].
        embed: of teacher forcing, the embeddings of x_{t+k} whatever the states.
        num_steps: K.

    Returns:
        The module's outputs, [K, B, T, D]: index k - 1 at position t predicts x_{t+k+1}.
    """
    positions_T = torch.arange(hidden_BTD.size(1), device=hidden_BTD.device)
    steps: list[Keys] = []
    outputs = []
    for k in range(num_steps):
        u_BTD = module.fuse(embed(k + 1, hidden_BTD), hidden_BTD)
        q_BTAC, *keys = module.layer.queries_keys_values(u_BTD, positions_T + k)
        steps.append(Keys(*keys) if steps else Keys(*keys).by_head(q_BTAC.size(2)))
        attended_BTAC = chain_attention(q_BTAC, steps[0], steps[1:])
        hidden_BTD = module.norm(module.layer.finish(u_BTD, attended_BTAC))
        outputs.append(hidden_BTD)
    return torch.stack(outputs)
