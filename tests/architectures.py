"""Very small targets with random weights, one for each architecture: what docs/architectures.md is made from.

`python -m tests.architectures` writes that page anew.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

COMMON = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 64,
    "max_position_embeddings": 512,
    "initializer_range": 0.1,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
_LOCAL_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
_ROUTED_EXPERTS = {
    "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64, "n_shared_experts": 1,
    "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1,
}  # fmt: skip
_MLA = {  # vLLM's kernels for a CPU take the latent size of real ones alone
    "num_key_value_heads": 2, "kv_lora_rank": 512, "q_lora_rank": 32, "qk_rope_head_dim": 64, "qk_nope_head_dim": 64,
    "v_head_dim": 64, "head_dim": 64,
}  # fmt: skip
_MAMBA_2 = {"mamba_n_heads": 4, "mamba_d_head": 32, "mamba_n_groups": 1, "mamba_d_state": 16, "mamba_chunk_size": 16}
_DELTA = {
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 16, "linear_value_head_dim": 16,
    "layer_types": ["linear_attention", "linear_attention", "full_attention"],
}  # fmt: skip
_MROPE = {"rope_parameters": {"rope_type": "default", "mrope_section": [4, 6, 6], "rope_theta": 1e6}, "head_dim": 32}
_VISION = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28,
    "patch_size": 14,
}  # fmt: skip
_QWEN_VISION = {"depth": 1, "hidden_size": 32, "out_hidden_size": 64, "num_heads": 2, "intermediate_size": 64}
_SLIDING_LAST_GLOBAL = ["sliding_attention", "sliding_attention", "full_attention"]
_GEMMA_4 = {
    "global_head_dim": 128, "sliding_window": 64, "layer_types": _SLIDING_LAST_GLOBAL,
    "hidden_size_per_layer_input": 0, "final_logit_softcapping": 30.0,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Architecture:
    """One row of the table."""

    name: str
    """As people call it."""
    config: str
    """transformers' config class."""
    model: str
    """Its model class."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """Of the config, or of its text part, beside COMMON; None takes a field of COMMON away."""
    vision: Mapping[str, Any] | None = None
    """The config of the part that reads pictures; None for a target of text alone."""


def _causal(name: str, prefix: str, **fields: Any) -> Architecture:
    model = f"{prefix.removesuffix('Text')}ForCausalLM"
    return Architecture(name=name, config=f"{prefix}Config", model=model, fields=fields)


def _pictures(name: str, prefix: str, vision: Mapping[str, Any], **fields: Any) -> Architecture:
    model = f"{prefix}ForConditionalGeneration"
    return Architecture(name=name, config=f"{prefix}Config", model=model, fields=fields, vision=vision)


DENSE = (
    _causal("Llama", "Llama", tie_word_embeddings=False),
    _causal("Llama, tied head", "Llama", tie_word_embeddings=True),
    _causal("Qwen 2", "Qwen2", tie_word_embeddings=True),
    _causal("Qwen 3", "Qwen3"),
    _causal("Mistral, sliding window", "Mistral", sliding_window=64),
    _causal("Ministral 3", "Ministral3"),
    _causal("Phi 3", "Phi3"),
    _causal("Gemma", "Gemma"),
    _causal("Gemma 2", "Gemma2", final_logit_softcapping=5.0, query_pre_attn_scalar=64, sliding_window=64),
    _causal("Gemma 3", "Gemma3Text", query_pre_attn_scalar=64, sliding_window=64),
    _causal("Gemma 4", "Gemma4Text", **_GEMMA_4, attention_k_eq_v=True, num_global_key_value_heads=1),
    _causal(
        "Gemma 3n",
        "Gemma3nText",
        sliding_window=64,
        layer_types=_SLIDING_LAST_GLOBAL,
        num_kv_shared_layers=0,
        hidden_size_per_layer_input=16,
        vocab_size_per_layer_input=2048,
        laurel_rank=8,
        activation_sparsity_pattern=[0.0] * 3,
        intermediate_size=[128] * 3,
    ),
    _causal("Granite", "Granite", logits_scaling=8.0, embedding_multiplier=12.0, tie_word_embeddings=True),
    _causal("Cohere", "Cohere", logit_scale=0.25),
    _causal("Cohere 2", "Cohere2", logit_scale=0.25, sliding_window=64),
    _causal("OLMo", "Olmo"),
    _causal("OLMo 2", "Olmo2"),
    _causal("OLMo 3", "Olmo3", sliding_window=64, layer_types=_SLIDING_LAST_GLOBAL),
    _causal("SmolLM 3", "SmolLM3"),
    _causal("GLM", "Glm"),
    _causal("GLM 4", "Glm4"),
    _causal("EXAONE 4", "Exaone4", sliding_window=64, layer_types=_SLIDING_LAST_GLOBAL),
    _causal("Hunyuan", "HunYuanDenseV1"),
    _causal("Seed-OSS", "SeedOss"),
    _causal("Apertus", "Apertus"),
    _causal("StableLM", "StableLm", head_dim=None),
    _causal("StarCoder 2", "Starcoder2"),
    _causal("Nemotron", "Nemotron"),
    _causal("ERNIE 4.5", "Ernie4_5"),
    _causal("Arcee", "Arcee"),
    _causal("Helium", "Helium", head_dim=32),
    _causal("Falcon", "Falcon", head_dim=None, new_decoder_architecture=True, num_kv_heads=1),
    _causal("Phi", "Phi"),
    _causal("Persimmon", "Persimmon", head_dim=None),
    _causal("MiniCPM 3", "MiniCPM3", **_MLA),
    Architecture(name="GPT-2", config="GPT2Config", model="GPT2LMHeadModel"),
    _causal("GPT-NeoX", "GPTNeoX"),
    _causal("GPT-J", "GPTJ", rotary_dim=16),
    _causal("OPT", "OPT", ffn_dim=128, word_embed_proj_dim=64),
    _causal("BLOOM", "Bloom"),
    _causal("MPT", "Mpt"),
    _causal("Jais 2", "Jais2"),
    _causal("DiffLlama", "DiffLlama", num_key_value_heads=2),
    _causal("VaultGemma", "VaultGemma", query_pre_attn_scalar=64, sliding_window=64),
    _causal("NanoChat", "NanoChat"),
    _causal("CWM", "Cwm", sliding_window=64),
)
EXPERTS = (
    _causal("Mixtral", "Mixtral", **_LOCAL_EXPERTS),
    _causal("OLMoE", "Olmoe", head_dim=32, num_experts=4, num_experts_per_tok=2),
    _causal("Qwen 2 MoE", "Qwen2Moe", **_EXPERTS, shared_expert_intermediate_size=64, decoder_sparse_step=1),
    _causal("Qwen 3 MoE", "Qwen3Moe", **_EXPERTS, norm_topk_prob=True),
    _causal("MiniMax M2", "MiniMaxM2", **_LOCAL_EXPERTS, rotary_dim=64),
    _causal("GPT-OSS", "GptOss", **_LOCAL_EXPERTS, sliding_window=64),
    _causal(
        "Llama 4",
        "Llama4Text",
        num_local_experts=4,
        num_experts_per_tok=1,
        intermediate_size_mlp=128,
        attention_chunk_size=128,
        interleave_moe_layer_step=1,
    ),
    _causal("GLM 4 MoE", "Glm4Moe", **_ROUTED_EXPERTS),
    _causal("Granite MoE", "GraniteMoe", **_LOCAL_EXPERTS),
    _causal("Granite MoE, shared", "GraniteMoeShared", **_LOCAL_EXPERTS, shared_intermediate_size=64),
    _causal("Phi 3.5 MoE", "Phimoe", **_LOCAL_EXPERTS),
    _causal(
        "ERNIE 4.5 MoE",
        "Ernie4_5_Moe",
        moe_num_experts=4,
        moe_k=2,
        moe_intermediate_size=64,
        moe_num_shared_experts=1,
        moe_layer_start_index=1,
    ),
    _causal("Hunyuan MoE", "HunYuanMoEV1", num_experts=4, moe_topk=2),
    _causal("dots.llm1", "Dots1", **_ROUTED_EXPERTS, sliding_window=None),
    _causal("FlexOlmo", "FlexOlmo", num_experts=4, num_experts_per_tok=2),
    _causal("Solar Open", "SolarOpen", **_ROUTED_EXPERTS),
    _causal(
        "AFMoE", "Afmoe", **_EXPERTS, num_shared_experts=1, num_dense_layers=1, sliding_window=64, score_func="sigmoid"
    ),
    _causal("JetMoE", "JetMoe", **_LOCAL_EXPERTS, num_key_value_heads=2),
    _causal(
        "Gemma 4 MoE",
        "Gemma4Text",
        **_GEMMA_4,
        enable_moe_block=True,
        num_experts=4,
        top_k_experts=2,
        moe_intermediate_size=64,
    ),
)
LATENT = (
    _causal("DeepSeek V2", "DeepseekV2", **_ROUTED_EXPERTS, **_MLA),
    _causal("DeepSeek V3", "DeepseekV3", **_ROUTED_EXPERTS, **_MLA, topk_method="noaux_tc"),
    _causal("DeepSeek V3.2", "DeepseekV32", **_ROUTED_EXPERTS, **_MLA),
    _causal("GLM 4 MoE Lite", "Glm4MoeLite", **_ROUTED_EXPERTS, **_MLA),
    _causal(
        "LongCat Flash",
        "LongcatFlash",
        **_MLA,
        num_layers=2,
        ffn_hidden_size=128,
        expert_ffn_hidden_size=64,
        moe_topk=2,
        n_routed_experts=4,
        zero_expert_num=1,
    ),
    _causal(
        "Kimi Linear",
        "KimiLinear",
        **_MLA,
        **_LOCAL_EXPERTS,
        moe_intermediate_size=64,
        linear_head_dim=16,
        linear_num_heads=2,
    ),
    _causal("Youtu", "Youtu", **_MLA),
)
HYBRID = (
    _causal("Qwen 3 Next", "Qwen3Next", **_DELTA, **_EXPERTS, shared_expert_intermediate_size=64),
    _causal("Qwen 3.5", "Qwen3_5Text", **_DELTA),
    _causal("Qwen 3.5 MoE", "Qwen3_5MoeText", **_DELTA, **_EXPERTS, shared_expert_intermediate_size=64),
    _causal("OLMo Hybrid", "OlmoHybrid", **_DELTA),
    _causal("Falcon H1", "FalconH1", **_MAMBA_2, mamba_d_ssm=128),
    _causal("Bamba", "Bamba", **_MAMBA_2, attn_layer_indices=[1]),
    _causal(
        "Granite 4 hybrid",
        "GraniteMoeHybrid",
        **_MAMBA_2,
        **_LOCAL_EXPERTS,
        shared_intermediate_size=64,
        layer_types=["mamba", "attention", "mamba"],
    ),
    _causal(
        "Jamba",
        "Jamba",
        num_experts=4,
        num_experts_per_tok=2,
        attn_layer_period=2,
        attn_layer_offset=1,
        mamba_d_state=8,
        use_mamba_kernels=False,
    ),
    _causal(
        "Zamba 2",
        "Zamba2",
        mamba_d_state=16,
        mamba_ngroups=1,
        n_mamba_heads=4,
        mamba_headdim=32,
        num_mem_blocks=1,
        layers_block_type=["mamba", "hybrid", "mamba"],
        chunk_size=16,
        use_mamba_kernels=False,
        num_key_value_heads=2,
    ),
    _causal(
        "Nemotron H",
        "NemotronH",
        hybrid_override_pattern="M*-",
        layers_block_type=["mamba", "attention", "mlp"],
        mamba_num_heads=4,
        mamba_head_dim=32,
        ssm_state_size=16,
        n_groups=1,
        chunk_size=16,
    ),
    _causal(
        "LFM 2",
        "Lfm2",
        head_dim=None,
        conv_dim=64,
        block_dim=64,
        block_ff_dim=128,
        block_auto_adjust_ff_dim=False,
        layer_types=["conv", "full_attention", "conv"],
    ),
    _causal("LFM 2 MoE", "Lfm2Moe", layer_types=["conv", "full_attention", "conv"], **_EXPERTS, num_dense_layers=1),
    _causal(
        "MiniMax",
        "MiniMax",
        **_LOCAL_EXPERTS,
        layer_types=["linear_attention", "full_attention", "linear_attention"],
        block_size=16,
    ),
    _causal(
        "RecurrentGemma",
        "RecurrentGemma",
        attention_window_size=64,
        block_types=["recurrent", "recurrent", "attention"],
    ),
    _causal("Mamba", "Mamba"),
    _causal("Mamba 2", "Mamba2", num_heads=4, head_dim=32, state_size=16, n_groups=1, chunk_size=16),
    _causal("Falcon Mamba", "FalconMamba"),
)
MULTIMODAL = (
    _pictures("Gemma 3, multimodal", "Gemma3", _VISION, sliding_window=64),
    _pictures("Gemma 4, multimodal", "Gemma4", _VISION | {"num_key_value_heads": 2, "head_dim": 16}, **_GEMMA_4),
    _pictures("Mistral 3", "Mistral3", _VISION | {"model_type": "pixtral"}, model_type="mistral"),
    _pictures(
        "Qwen 2 VL",
        "Qwen2VL",
        {"depth": 1, "embed_dim": 32, "hidden_size": 64, "num_heads": 2, "mlp_ratio": 2},
        **_MROPE,
    ),
    _pictures("Qwen 2.5 VL", "Qwen2_5_VL", _QWEN_VISION | {"fullatt_block_indexes": [0]}, **_MROPE),
    _pictures("Qwen 3 VL", "Qwen3VL", _QWEN_VISION | {"deepstack_visual_indexes": [0]}, **_MROPE),
    _pictures("LLaVA", "Llava", _VISION | {"model_type": "clip_vision_model"}, model_type="llama"),
    _pictures("InternVL", "InternVL", _VISION | {"model_type": "internvl_vision"}, model_type="qwen2"),
)
GROUPS = {
    "dense": DENSE,
    "mixture of experts": EXPERTS,
    "latent attention (MLA)": LATENT,
    "linear attention, Mamba, convolution": HYBRID,
    "text of a multimodal target": MULTIMODAL,
}
ALL = tuple(one for group in GROUPS.values() for one in group)


def write_target(folder: Path, architecture: Architecture, tokenizer_from: Path) -> Path:
    """A random target, with the shipped target's tokenizer."""
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(tokenizer_from)
    fields = COMMON | {"vocab_size": len(tokenizer)} | dict(architecture.fields)
    fields = {name: value for name, value in fields.items() if name not in COMMON or value is not None}
    if architecture.vision is not None:
        fields = {"text_config": fields, "vision_config": dict(architecture.vision)}
    config = getattr(transformers, architecture.config)(**fields)
    torch.manual_seed(0)
    getattr(transformers, architecture.model)(config).save_pretrained(folder)
    for path in tokenizer_from.glob("tokenizer*"):
        shutil.copy(path, folder)
    return folder


NOTHING_TO_SHARE = "no: vLLM finds no `model.embed_tokens` to share"
_GPU = "not tried: vLLM's kernels for it need a GPU"
_MLA_BLOCKS = "no: on a CPU vLLM has no size of blocks that MLA and a drafter's attention share"
_PICTURES = "not tried: vLLM imports torchvision for it, which these tests do without"
SERVED: Mapping[str, str] = {
    **dict.fromkeys(
        (
            "Llama", "Llama, tied head", "Qwen 2", "Qwen 3", "Mistral, sliding window", "Ministral 3", "Phi 3", "Gemma",
            "Gemma 2", "Gemma 3", "Gemma 3n", "Gemma 4", "Granite", "Cohere", "Cohere 2", "OLMo", "OLMo 2", "OLMo 3",
            "SmolLM 3", "GLM", "GLM 4", "EXAONE 4", "Hunyuan", "Seed-OSS", "Apertus", "StableLM", "StarCoder 2",
            "Nemotron", "ERNIE 4.5", "Arcee", "Helium", "Phi", "Jais 2", "VaultGemma", "NanoChat", "CWM", "Mixtral",
            "OLMoE", "Qwen 2 MoE", "Qwen 3 MoE", "GPT-OSS", "GLM 4 MoE", "Granite MoE", "Granite MoE, shared",
            "ERNIE 4.5 MoE", "Hunyuan MoE", "dots.llm1", "FlexOlmo", "Solar Open", "Gemma 4 MoE", "Llama 4",
            "MiniCPM 3",
        ),
        "yes",
    ),
    **dict.fromkeys(("Falcon", "GPT-2", "GPT-J", "OPT", "BLOOM", "Mamba 2"), NOTHING_TO_SHARE),
    **dict.fromkeys(("Jamba", "Mamba", "Falcon Mamba", "OLMo Hybrid"), _GPU),
    **dict.fromkeys(("Granite 4 hybrid", "Zamba 2", "Nemotron H", "LFM 2"), _GPU),
    "GPT-NeoX": "no: vLLM's class has no `embed_tokens`",
    **dict.fromkeys(("DeepSeek V2", "DeepSeek V3", "GLM 4 MoE Lite"), _MLA_BLOCKS),
    **dict.fromkeys(("Qwen 3.5", "Qwen 3.5 MoE"), _PICTURES),
    **dict.fromkeys((one.name for one in MULTIMODAL), _PICTURES),
    **dict.fromkeys(
        ("DiffLlama", "Bamba", "RecurrentGemma"), "no: vLLM's Transformers backend refuses its attention"
    ),
    "MPT": "no: vLLM has it no longer",
    "Persimmon": "no: without a drafter, too, vLLM's output is not the model's, and another in larger passes",
    "Phi 3.5 MoE": "no: without a drafter, too, a request ends vLLM 0.32 there",
    "DeepSeek V3.2": "not tried: vLLM's sparse attention needs a GPU",
    "Falcon H1": "no: beside drafts vLLM's Mamba kernels need a GPU",
    "Qwen 3 Next": "no: vLLM's linear attention takes bfloat16 alone there, in which outputs are not comparable",
}  # fmt: skip
"""What vLLM 0.32 on a CPU made of each that was tried: "yes", or why not."""
_PAGE = """\
# Architectures

Which targets train, are simulated by `vllm-mtp eval`, and are served. Each row is a very small target of random weights
with the architecture's own parts: tests/architectures.py has them, and `python -m tests.architectures` writes this
page. tests/test_architectures.py takes a step of training and compares greedy output with drafts to passes over the
whole text without any cache; tests/serving/test_architectures.py does the same in vLLM 0.32 on a CPU, where the output
with a drafter must be that without. A drafter of random weights is wrong nearly always, so that what is rejected is
taken back in nearly every round. Fine-tuned copies, and others that load into the same class, are as their class.

**What the drafter gets.** Its layer has the target's own sizes, where layers differ those of the last one with global
attention. Beside experts its MLP is as wide as those that a token passes through, at most four hidden sizes. Beside
latent attention (MLA) it has at most eight key-value heads.

**Quantized targets.** AWQ and GPTQ (2, 4 and 8 bits) are made plain while they load, fp8, mxfp4 and compressed-tensors
by transformers; other kinds need the library that the error names. In memory they are as large as plain ones. Or vLLM
computes their hidden states as it serves them: `train --hidden-states vllm --store DIR`. For training and `eval` the
head must be plain: the drafter shares it. Served beside a quantized head, a drafter of the plain target works.

**Recurrent states** (linear attention, Mamba, convolutions) cannot be cut back to the accepted tokens. There `eval`
reads token by token: as exact, and as slow as without a drafter.

**Refused, in one line, by the first command that meets it:** encoder-decoders, classifiers and embedding models (no LM
head), models that see what follows (BERT, diffusion), kinds that transformers does not know, weights that are missing.
Code of a target's own runs with `--trust-remote-code` alone.

"""


def page() -> str:
    """The content of docs/architectures.md."""
    lines = ["| architecture | kind | train | eval | served on a CPU |", "|---|---|---|---|---|"]
    for kind, group in GROUPS.items():
        lines += [f"| {one.name} | {kind} | yes | yes | {SERVED.get(one.name, 'not tried')} |" for one in group]
    return _PAGE + "\n".join(lines) + "\n"


if __name__ == "__main__":
    (ROOT / "docs" / "architectures.md").write_text(page())
