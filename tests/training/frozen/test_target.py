"""The frozen target as transformers loads it."""

from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma2Config,
    Gemma2ForCausalLM,
    Glm4MoeConfig,
    Glm4MoeForCausalLM,
)

from vllm_mtp.training.frozen.target import FrozenTarget, attend_without_plans


def test_a_soft_cap_of_attention_scores_is_kept(target_dir: Path, tmp_path: Path) -> None:
    """Catches hidden states that the served target does not have: transformers' default attention drops the cap."""
    config = Gemma2Config(
        vocab_size=2048, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, query_pre_attn_scalar=16, initializer_range=0.5,
        attn_logit_softcapping=0.2, final_logit_softcapping=5.0,
    )  # fmt: skip
    torch.manual_seed(0)
    Gemma2ForCausalLM(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(target_dir).save_pretrained(tmp_path)
    ids_BT = torch.arange(24)[None]
    found = FrozenTarget.load(str(tmp_path), device="cpu", dtype="float32").hidden_states(ids_BT)
    expected, without = (
        AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32, attn_implementation=attention).model(
            input_ids=ids_BT
        ).last_hidden_state
        for attention in ("eager", "sdpa")
    )  # fmt: skip
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(without, expected, atol=1e-2)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_what_a_target_computes_in_float32_is_not_rounded(dtype: str, target_dir: Path, tmp_path: Path) -> None:
    """Catches states of other positions, and of other experts, than those that are served."""
    config = Glm4MoeConfig(
        vocab_size=2048, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, first_k_dense_replace=1, n_routed_experts=4, num_experts_per_tok=2,
        n_shared_experts=1, moe_intermediate_size=16, n_group=1, topk_group=1,
    )  # fmt: skip
    torch.manual_seed(0)
    model = Glm4MoeForCausalLM(config)
    model.model.layers[1].mlp.gate.e_score_correction_bias.copy_(torch.randn(4))
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(target_dir).save_pretrained(tmp_path)
    exact = dict(FrozenTarget.load(str(tmp_path), device="cpu", dtype="float32").model.named_buffers())
    found = FrozenTarget.load(str(tmp_path), device="cpu", dtype=dtype)
    assert {name.rpartition(".")[2] for name in exact} >= {"inv_freq", "e_score_correction_bias"}
    for name, buffer in found.model.named_buffers():
        torch.testing.assert_close(buffer, exact[name], rtol=0, atol=0)
    assert found.dtype_name == dtype
    assert found.head.head_VD.dtype == found.dtype == found.hidden_states(torch.arange(8)[None]).dtype


def test_a_gpu_attends_without_plans() -> None:
    before = torch.backends.cuda.cudnn_sdp_enabled()
    try:
        torch.backends.cuda.enable_cudnn_sdp(True)
        attend_without_plans(torch.device("cpu"))
        assert torch.backends.cuda.cudnn_sdp_enabled()
        attend_without_plans(torch.device("cuda"))
        assert not torch.backends.cuda.cudnn_sdp_enabled()
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)
