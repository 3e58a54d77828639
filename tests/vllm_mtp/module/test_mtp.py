"""The module in plain PyTorch, against transformers' own layers.

Catches: interleaved instead of rotate-half RoPE, a wrong base or position, queries mapped to the wrong key-value head,
a norm with 1 + w or after RoPE, a bias that is dropped, a cache that sees the future or forgets the past, parameter
names that are not the checkpoint's.
"""

# Shapes: T tokens, D hidden size, A query heads, G key-value heads, C head size.

from typing import Any

import pytest
import torch
from torch import Tensor

from vllm_mtp.contract.config import MTPConfig
from vllm_mtp.module.mtp import KVCache, MTPModule, rotate

FIELDS: dict[str, Any] = {
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 10,  # not hidden_size / num_attention_heads
    "vocab_size": 50,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-3,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
}


def random_module(**fields: Any) -> MTPModule:
    """A module whose norms and biases are random too, so that none can be left out unseen."""
    torch.manual_seed(0)
    module = MTPModule(MTPConfig.from_dict(FIELDS | fields))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter) * (0.3 if parameter.ndim == 2 else 1.0))
    return module.requires_grad_(False)


def new_cache(module: MTPModule) -> KVCache:
    return KVCache(module.config, torch.float32, "cpu")


@pytest.mark.parametrize("attention_bias", [False, True])
@pytest.mark.parametrize("qk_norm", [False, True])
def test_parameters_are_the_checkpoints_tensors(attention_bias: bool, qk_norm: bool) -> None:
    module = random_module(attention_bias=attention_bias, qk_norm=qk_norm)
    shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    assert shapes == module.config.tensor_shapes()
    assert len(shapes) == 13 + 4 * attention_bias + 2 * qk_norm


def test_a_new_modules_draft_vocabulary_is_the_first_ids() -> None:
    module = random_module(draft_vocab_size=3)
    assert module.draft_ids is not None
    assert module.draft_ids.tolist() == [0, 1, 2]
    assert "d2t" not in dict(module.named_parameters()), "nothing to train"


@pytest.mark.parametrize("theta", [500.0, 1_000_000.0])
def test_rope_against_transformers(theta: float) -> None:
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

    torch.manual_seed(0)
    q_TAC, k_TGC = torch.randn(7, 6, 10), torch.randn(7, 2, 10)
    positions_T = torch.tensor([0, 1, 2, 5, 31, 1000, 30000])
    embedding = LlamaRotaryEmbedding(LlamaConfig(head_dim=10, rope_parameters=rope_parameters(theta)))
    cos, sin = embedding(q_TAC, positions_T[None])
    q_expected, k_expected = apply_rotary_pos_emb(q_TAC.transpose(0, 1)[None], k_TGC.transpose(0, 1)[None], cos, sin)
    # float32 angles of 30000 radians are good to about 2e-3
    for found, expected in (
        (rotate(q_TAC, positions_T, theta), q_expected),
        (rotate(k_TGC, positions_T, theta), k_expected),
    ):
        torch.testing.assert_close(found[:5], expected[0].transpose(0, 1)[:5], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found[5:], expected[0].transpose(0, 1)[5:], rtol=1e-2, atol=1e-2)


def rope_parameters(theta: float) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": theta}


def transformers_layer(module: MTPModule, x_TD: Tensor) -> Tensor:
    """The same decoder layer by transformers, over a whole causal sequence: Llama's, or Qwen3's with q and k norms."""
    from transformers import LlamaConfig, Qwen3Config
    from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRotaryEmbedding
    from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer

    config_class, layer_class = (
        (Qwen3Config, Qwen3DecoderLayer) if module.config.qk_norm else (LlamaConfig, LlamaDecoderLayer)
    )
    names = [name for name in FIELDS if name not in ("vocab_size", "max_position_embeddings")] + ["attention_bias"]
    config = config_class(
        num_hidden_layers=1, attn_implementation="eager", **{n: getattr(module.config, n) for n in names}
    )
    layer = layer_class(config, 0).eval()
    layer.load_state_dict(module.layer.state_dict())
    positions_1T = torch.arange(len(x_TD))[None]
    mask_TT = torch.full((len(x_TD), len(x_TD)), float("-inf")).triu(1)[None, None]
    with torch.no_grad():
        output = layer(
            x_TD[None],
            attention_mask=mask_TT,
            position_ids=positions_1T,
            position_embeddings=LlamaRotaryEmbedding(config)(x_TD, positions_1T),
        )
    return (output[0] if isinstance(output, tuple) else output)[0]


def llama_norm(weight_D: Tensor, x_TD: Tensor) -> Tensor:
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    norm = LlamaRMSNorm(len(weight_D), eps=FIELDS["rms_norm_eps"])
    norm.weight.data = weight_D
    return norm(x_TD).detach()


@pytest.mark.parametrize(("attention_bias", "qk_norm"), [(False, False), (True, False), (False, True), (True, True)])
def test_module_against_transformers(attention_bias: bool, qk_norm: bool) -> None:
    module = random_module(attention_bias=attention_bias, qk_norm=qk_norm)
    embedding_TD, hidden_TD = torch.randn(11, 24), 3 * torch.randn(11, 24)
    normed = (llama_norm(module.enorm.weight, embedding_TD), llama_norm(module.hnorm.weight, hidden_TD))
    u_TD = torch.cat(normed, dim=-1) @ module.eh_proj.weight.T
    expected_TD = llama_norm(module.norm.weight, transformers_layer(module, u_TD))
    torch.testing.assert_close(module(embedding_TD, hidden_TD, new_cache(module)), expected_TD, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("sizes", [[1] * 9, [4, 5], [3, 1, 2, 3], [8, 1]])
def test_cached_pieces_are_one_piece(sizes: list[int]) -> None:
    module = random_module(qk_norm=True)
    embedding_TD, hidden_TD = torch.randn(9, 24), torch.randn(9, 24)
    whole = new_cache(module)
    expected_TD = module(embedding_TD, hidden_TD, whole)
    cache, pieces = new_cache(module), []
    for embedding, hidden in zip(embedding_TD.split(sizes), hidden_TD.split(sizes), strict=True):
        pieces.append(module(embedding, hidden, cache))
    torch.testing.assert_close(torch.cat(pieces), expected_TD, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(cache.keys_SGC, whole.keys_SGC, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(cache.values_SGC, whole.values_SGC, rtol=1e-5, atol=1e-5)


def test_truncation_forgets_what_was_cut() -> None:
    module = random_module()
    embedding_TD, hidden_TD, other_TD = torch.randn(9, 24), torch.randn(9, 24), torch.randn(4, 24)
    straight, detour = new_cache(module), new_cache(module)
    for cache in (straight, detour):
        module(embedding_TD[:5], hidden_TD[:5], cache)
    module(other_TD, other_TD, detour)
    assert len(detour) == 9
    detour.truncate(5)
    found_TD, expected_TD = (module(embedding_TD[5:], hidden_TD[5:], cache) for cache in (detour, straight))
    assert torch.equal(found_TD, expected_TD)
    assert torch.equal(detour.keys_SGC, straight.keys_SGC)
