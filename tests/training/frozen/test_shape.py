"""Sizes of a target from its config, under whatever names.

Catches: a drafter as wide as one expert, or narrower than its hidden states; a crash where layers differ; a drafter
with the 128 key-value heads of a target that keeps a latent state instead.
"""

from typing import Any

import pytest
import transformers

from vllm_mtp.training.frozen.shape import TargetShape, mlp_width


@pytest.mark.parametrize(
    ("config", "width"),
    [
        (transformers.LlamaConfig(), 11008),
        (transformers.OlmoeConfig(hidden_size=2048, intermediate_size=1024, num_experts_per_tok=8), 8192),
        (transformers.MiniMaxM2Config(hidden_size=3072, intermediate_size=1536, num_experts_per_tok=8), 12288),
        (transformers.Qwen3MoeConfig(hidden_size=2048, moe_intermediate_size=768, num_experts_per_tok=8), 6144),
        (
            transformers.DeepseekV3Config(
                hidden_size=7168, moe_intermediate_size=2048, num_experts_per_tok=8, n_shared_experts=1
            ),
            18432,
        ),
        (transformers.MixtralConfig(hidden_size=4096, intermediate_size=14336, num_experts_per_tok=2), 16384),
        (transformers.GraniteMoeHybridConfig(num_local_experts=0, intermediate_size=512), 512),
        (transformers.GPT2Config(n_embd=768), 3072),
    ],
    ids=["dense", "OLMoE", "MiniMax M2", "Qwen 3 MoE", "with a shared expert", "capped", "no experts", "no width"],
)
def test_the_mlp_is_what_a_token_passes_through(config: Any, width: int) -> None:
    assert mlp_width(config) == width


def test_where_layers_differ_the_last_global_one_counts() -> None:
    config = transformers.Gemma4TextConfig(
        num_hidden_layers=6, head_dim=256, global_head_dim=512, num_key_value_heads=4, num_global_key_value_heads=2,
        attention_k_eq_v=True,
    )  # fmt: skip
    shape = TargetShape.of(config)
    assert (shape.head_dim, shape.num_key_value_heads, shape.rope_theta) == (512, 2, 1_000_000.0)


def test_a_latent_state_does_not_make_a_key_for_every_head() -> None:
    shape = TargetShape.of(transformers.DeepseekV3Config(num_attention_heads=128, num_key_value_heads=128))
    assert (shape.num_attention_heads, shape.num_key_value_heads) == (128, 8)


def test_a_target_without_attention_gets_heads_of_64() -> None:
    shape = TargetShape.of(transformers.MambaConfig(hidden_size=768))
    assert (shape.num_attention_heads, shape.head_dim) == (12, 64)
