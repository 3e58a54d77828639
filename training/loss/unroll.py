"""K chained draft steps over whole sequences, with the attention that serving has.

At draft step k, position t attends to the step-1 keys of positions 0..t (made from the target's hidden states: what the
KV cache holds after verification) and to its own chain's keys of steps 2..k, never to the same-step states of other
positions. Hidden states are the module's own from step 2 on; the caller says which tokens are fed beside them.
"""

# Shapes: B sequences, T positions, K draft steps, D hidden size, A query heads, G key-value heads, C head size.

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from vllm_mtp.module.mtp import MTPModule

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
    num_positions = hidden_BTD.size(1)
    positions_T = torch.arange(num_positions, device=hidden_BTD.device)
    context_TT = positions_T <= positions_T[:, None]
    own_TT = positions_T == positions_T[:, None]
    groups = module.config.num_attention_heads // module.config.num_key_value_heads

    keys, values, outputs = [], [], []
    for k in range(num_steps):
        u_BTD = module.fuse(embed(k + 1, hidden_BTD), hidden_BTD)
        q_BTAC, k_BTGC, v_BTGC = module.layer.queries_keys_values(u_BTD, positions_T + k)
        keys.append(k_BTGC.repeat_interleave(groups, dim=2).transpose(1, 2))
        values.append(v_BTGC.repeat_interleave(groups, dim=2).transpose(1, 2))
        attended_BATC = F.scaled_dot_product_attention(
            q_BTAC.transpose(1, 2),
            torch.cat(keys, dim=2),
            torch.cat(values, dim=2),
            attn_mask=torch.cat([context_TT] + [own_TT] * k, dim=1) if k else None,
            is_causal=k == 0,
        )
        hidden_BTD = module.norm(module.layer.finish(u_BTD, attended_BATC.transpose(1, 2)))
        outputs.append(hidden_BTD)
    return torch.stack(outputs)
