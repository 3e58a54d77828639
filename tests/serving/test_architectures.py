"""Any target: one draft class and one training path serve architectures that differ in head, scale and cache.

Catches: a soft cap or logit scale left out of the drafter's logits, a target without an LM head attribute, an untied
head mistaken for the embedding, KV cache groups of several kinds of attention.

The targets are very small, with random weights; so are the drafters, whose every guess may be wrong. What is tested is
that they start, draft, and leave the target's output as it is.
"""

# Shapes: T tokens, D hidden size, V vocabulary, J draft vocabulary.

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.drafts import random_tensors
from tests.serving.engine import acceptance, engine, greedy, model_runner
from vllm_mtp.contract.checkpoint import save_draft
from vllm_mtp.training.config import TrainConfig
from vllm_mtp.training.frozen.target import FrozenTarget
from vllm_mtp.training.initial import draft_config_for

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

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
# transformers' class -> fields beside COMMON.
DEFAULT: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama, untied": ("Llama", {"tie_word_embeddings": False}),
    "Gemma 2": ("Gemma2", {"final_logit_softcapping": 5.0, "query_pre_attn_scalar": 64, "sliding_window": 64}),
    "Granite": ("Granite", {"logits_scaling": 8.0, "embedding_multiplier": 12.0, "tie_word_embeddings": True}),
}
EXTENDED: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama, tied": ("Llama", {"tie_word_embeddings": True}),
    "Qwen 2": ("Qwen2", {"tie_word_embeddings": True}),
    "Mistral, sliding window": ("Mistral", {"sliding_window": 64}),
    "Phi 3": ("Phi3", {}),
    "Cohere 2": ("Cohere2", {"logit_scale": 0.25, "sliding_window": 64}),
    "Gemma 3": ("Gemma3Text", {"query_pre_attn_scalar": 64, "sliding_window": 64}),
    "Qwen 3 MoE": (
        "Qwen3Moe",
        {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64, "norm_topk_prob": True},
    ),
}
CASES = [pytest.param(*case, id=name) for name, case in DEFAULT.items()]
CASES += [pytest.param(*case, id=name, marks=pytest.mark.extended) for name, case in EXTENDED.items()]


def write_target(folder: Path, name: str, fields: dict[str, Any], tokenizer_from: Path) -> Path:
    """A random target of an architecture of transformers, with the shipped target's tokenizer."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(tokenizer_from)
    config = getattr(transformers, f"{name}Config")(**(COMMON | {"vocab_size": len(tokenizer)} | fields))
    torch.manual_seed(0)
    model_class: Callable[..., Any] = getattr(transformers, f"{name.removesuffix('Text')}ForCausalLM")
    model_class(config).save_pretrained(folder)
    for path in tokenizer_from.glob("tokenizer*"):
        shutil.copy(path, folder)
    return folder


def write_draft(folder: Path, target_dir: Path) -> Path:
    """A random drafter in the shape that training gives it for this target."""
    target = FrozenTarget.load(str(target_dir), device="cpu", dtype="float32")
    config = draft_config_for(target.config, TrainConfig(), target.fingerprint())
    save_draft(folder, config, random_tensors(config))
    return folder


@pytest.mark.parametrize(("name", "fields"), CASES)
def test_architecture(
    tmp_path: Path, target_dir: Path, prompts: list[list[int]], name: str, fields: dict[str, Any]
) -> None:
    target = write_target(tmp_path / "target", name, fields, tokenizer_from=target_dir)
    draft = write_draft(tmp_path / "draft", target)
    with engine(target) as llm:
        expected = greedy(llm, prompts[:8], 24)
    with engine(target, draft, 3) as llm:
        assert greedy(llm, prompts[:8], 24) == expected
        assert acceptance(llm).num_drafts >= 8 * 24 / 4 - 8
        from vllm_mtp.serving.heads import DraftHead

        runner = model_runner(llm)
        hidden_TD = torch.randn(16, COMMON["hidden_size"], generator=torch.Generator().manual_seed(1))  # type: ignore[arg-type]
        with torch.inference_mode():
            draft_model = runner.drafter.model
            logits_TV = draft_model.compute_logits(hidden_TD)
            assert torch.equal(logits_TV, runner.model.compute_logits(hidden_TD))
            # The same head cut to a draft vocabulary.
            ids_J = torch.arange(1, logits_TV.size(1), 3)
            processor = draft_model.logits_processor
            few_TV = DraftHead(draft_model.target_head, processor, ids_J, hidden_TD.dtype, None).logits(hidden_TD)
            torch.testing.assert_close(few_TV[:, ids_J], logits_TV[:, ids_J], rtol=1e-5, atol=1e-5)
    reference = FrozenTarget.load(str(target), device="cpu", dtype="float32").head.logits(hidden_TD)
    torch.testing.assert_close(logits_TV, reference, rtol=1e-4, atol=1e-4)
