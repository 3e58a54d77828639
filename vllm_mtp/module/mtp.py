"""The MTP module in plain PyTorch: the reference for vLLM's `draft_model.py`, and what training optimizes.

    u_t = W [RMSNorm(E x_{t+1}); RMSNorm(h_t)]
    s_t = RMSNorm(DecoderLayer(u)_t)              q_t = softmax(LMHead s_t) predicts x_{t+2}

h_t is the target's hidden state after its final norm; E and LMHead are the target's and stay outside the module. A
further draft step feeds s in place of h. The pieces are separate (`fuse`, `layer.queries_keys_values`, `finish`)
because training attends otherwise than a cached loop does (training/loss/unroll.py).
"""

# Shapes: B batch (or none), T tokens, S cached tokens, D hidden size, A query heads, G key-value heads, C head size,
# J draft vocabulary.

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vllm_mtp.contract.config import MTPConfig
from vllm_mtp.contract.tensors import draft_ids


def rotate(x_TAC: Tensor, positions_T: Tensor, theta: float) -> Tensor:
    """RoPE over the whole head, halves rotated against each other (rotate-half, as Llama has it)."""
    half = x_TAC.size(-1) // 2
    inverse_frequency = theta ** (-torch.arange(half, device=x_TAC.device, dtype=torch.float32) / half)
    angle = positions_T[..., None, None].float() * inverse_frequency
    cos, sin = angle.cos().to(x_TAC.dtype), angle.sin().to(x_TAC.dtype)
    first, second = x_TAC.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


class RMSNorm(nn.RMSNorm):
    """x / rms(x) * weight in the weight's precision, also where autocast hands over x in bfloat16."""

    def forward(self, x_TD: Tensor) -> Tensor:
        return super().forward(x_TD.to(self.weight.dtype)).to(x_TD.dtype)


class Attention(nn.Module):
    """Projections of grouped-query attention, with optional biases and per-head norms."""

    def __init__(self, config: MTPConfig) -> None:
        super().__init__()
        hidden, size, bias = config.hidden_size, config.head_dim, config.attention_bias
        self.num_heads, self.num_kv_heads, self.head_dim = config.num_attention_heads, config.num_key_value_heads, size
        assert config.rope_parameters is not None
        self.theta = float(config.rope_parameters["rope_theta"])
        self.q_proj = nn.Linear(hidden, self.num_heads * size, bias=bias)
        self.k_proj = nn.Linear(hidden, self.num_kv_heads * size, bias=bias)
        self.v_proj = nn.Linear(hidden, self.num_kv_heads * size, bias=bias)
        self.o_proj = nn.Linear(self.num_heads * size, hidden, bias=bias)
        self.q_norm = RMSNorm(size, config.rms_norm_eps) if config.qk_norm else nn.Identity()
        self.k_norm = RMSNorm(size, config.rms_norm_eps) if config.qk_norm else nn.Identity()

    def queries_keys_values(self, x_TD: Tensor, positions_T: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated queries [.., T, A, C], rotated keys and values [.., T, G, C]."""
        q_TAC = self.q_norm(self.q_proj(x_TD).unflatten(-1, (self.num_heads, self.head_dim)))
        k_TGC = self.k_norm(self.k_proj(x_TD).unflatten(-1, (self.num_kv_heads, self.head_dim)))
        v_TGC = self.v_proj(x_TD).unflatten(-1, (self.num_kv_heads, self.head_dim))
        return rotate(q_TAC, positions_T, self.theta), rotate(k_TGC, positions_T, self.theta), v_TGC


class MLP(nn.Module):
    """SwiGLU."""

    def __init__(self, config: MTPConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x_TD: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x_TD)) * self.up_proj(x_TD))  # type: ignore[no-any-return]


class DecoderLayer(nn.Module):
    """One pre-norm transformer layer, around an attention that the caller chooses."""

    def __init__(self, config: MTPConfig) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = MLP(config)

    def queries_keys_values(self, u_TD: Tensor, positions_T: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.self_attn.queries_keys_values(self.input_layernorm(u_TD), positions_T)

    def finish(self, u_TD: Tensor, attended_TAC: Tensor) -> Tensor:
        """What follows the attention: output projection, residual, MLP, residual."""
        x_TD = u_TD + self.self_attn.o_proj(attended_TAC.flatten(-2))
        return x_TD + self.mlp(self.post_attention_layernorm(x_TD))  # type: ignore[no-any-return]


class KVCache:
    """Keys and values of one sequence, by position; what drafting wrote is cut off again after verification."""

    def __init__(self, config: MTPConfig, dtype: torch.dtype, device: torch.device | str) -> None:
        shape = (0, config.num_key_value_heads, config.head_dim)
        self.keys_SGC = torch.empty(shape, dtype=dtype, device=device)
        self.values_SGC = torch.empty(shape, dtype=dtype, device=device)

    def __len__(self) -> int:
        return self.keys_SGC.size(0)

    def extend(self, keys_TGC: Tensor, values_TGC: Tensor) -> None:
        self.keys_SGC = torch.cat((self.keys_SGC, keys_TGC))
        self.values_SGC = torch.cat((self.values_SGC, values_TGC))

    def truncate(self, length: int) -> None:
        self.keys_SGC, self.values_SGC = self.keys_SGC[:length], self.values_SGC[:length]


class MTPModule(nn.Module):
    """The module; names of parameters, and of the buffer `d2t`, are the checkpoint's tensor names."""

    d2t: Tensor | None

    def __init__(self, config: MTPConfig) -> None:
        super().__init__()
        self.config = config
        size = config.draft_vocab_size
        self.register_buffer("d2t", None if size is None else torch.zeros(size, dtype=torch.int64))
        self.enorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.hnorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.eh_proj = nn.Linear(2 * config.hidden_size, config.hidden_size, bias=False)
        self.layer = DecoderLayer(config)
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    @property
    def draft_ids(self) -> Tensor | None:
        """The target ids that are drafted, ascending, [J] int64; None: all of them. Zeros in `d2t` are the first J."""
        return None if self.d2t is None else draft_ids(self.d2t)

    def fuse(self, embedding_TD: Tensor, hidden_TD: Tensor) -> Tensor:
        """u = W [RMSNorm(embedding); RMSNorm(hidden)]."""
        normed_T2D = torch.cat((self.enorm(embedding_TD), self.hnorm(hidden_TD)), dim=-1)
        return self.eh_proj(normed_T2D)  # type: ignore[no-any-return]

    def forward(self, embedding_TD: Tensor, hidden_TD: Tensor, cache: KVCache) -> Tensor:
        """Runs T further tokens of one sequence and appends their keys and values to the cache.

        Args:
            embedding_TD: embeddings of x_{t+1}, [T, D], for the positions t = len(cache), len(cache) + 1, ...
            hidden_TD: the target's h_t, or this module's output at the draft step before, [T, D].
            cache: keys and values of the positions below; grows by T.

        Returns:
            s_t, [T, D]: goes into the LM head, and into the next draft step as its hidden state.
        """
        past, num_tokens = len(cache), hidden_TD.size(0)
        positions_T = torch.arange(past, past + num_tokens, device=hidden_TD.device)
        u_TD = self.fuse(embedding_TD, hidden_TD)
        q_TAC, k_TGC, v_TGC = self.layer.queries_keys_values(u_TD, positions_T)
        cache.extend(k_TGC, v_TGC)
        visible_TS = torch.arange(len(cache), device=hidden_TD.device) <= positions_T[:, None]
        attended_ATC = F.scaled_dot_product_attention(
            q_TAC.transpose(0, 1)[None],
            cache.keys_SGC.transpose(0, 1)[None],
            cache.values_SGC.transpose(0, 1)[None],
            attn_mask=visible_TS,
            enable_gqa=True,
        )[0]
        return self.norm(self.layer.finish(u_TD, attended_ATC.transpose(0, 1)))  # type: ignore[no-any-return]
