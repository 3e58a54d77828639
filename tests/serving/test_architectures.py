"""Any target: one draft class and one training path serve architectures that differ in head, scale and cache.

Catches: a soft cap or logit scale left out of the drafter's logits, a target without an LM head attribute, an untied
head mistaken for the embedding, KV cache groups of several kinds of attention.

The targets are very small, with random weights; so are the drafters, whose every guess may be wrong. What is tested is
that they start, draft, and leave the target's output as it is. tests/architectures.py has them.
"""

# Shapes: T tokens, D hidden size, V vocabulary, J draft vocabulary.

from pathlib import Path

import pytest
import torch

from tests.architectures import ALL, COMMON, SERVED, Architecture, write_target
from tests.drafts import random_tensors
from tests.serving.engine import acceptance, engine, greedy, model_runner
from vllm_mtp.contract.checkpoint import save_draft
from vllm_mtp.training.config import TrainConfig
from vllm_mtp.training.frozen.target import FrozenTarget
from vllm_mtp.training.start.initial import draft_config_for

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

_DIVIDES_STATES = ("MiniCPM 3",)
"""Whose logits are scaled by dividing the hidden states, in vLLM before they leave the model."""
_BY_DEFAULT = ("Llama", "Gemma 2", "Granite")
_IN_CI = (
    "Llama, tied head", "Qwen 2", "Qwen 3", "Mistral, sliding window", "Ministral 3", "Phi 3", "Gemma 3", "Gemma 4",
    "Cohere 2", "OLMoE", "Qwen 3 MoE",
)  # fmt: skip


def marks(name: str) -> tuple[pytest.MarkDecorator, ...]:
    if name in _BY_DEFAULT:
        return ()
    return (pytest.mark.extended,) if name in _IN_CI else (pytest.mark.extended, pytest.mark.alone)


CASES = [
    pytest.param(one, id=one.name, marks=marks(one.name)) for one in ALL if SERVED.get(one.name, "").startswith("yes")
]


def write_draft(folder: Path, target: FrozenTarget) -> Path:
    """A random drafter in the shape that training gives it for this target."""
    config = draft_config_for(target.config, TrainConfig(), target.fingerprint())
    save_draft(folder, config, random_tensors(config))
    return folder


@pytest.mark.parametrize("architecture", CASES)
def test_architecture(tmp_path: Path, target_dir: Path, prompts: list[list[int]], architecture: Architecture) -> None:
    target = write_target(tmp_path / "target", architecture, tokenizer_from=target_dir)
    # Before any engine: vLLM's Transformers backend changes the classes of transformers in its process.
    frozen = FrozenTarget.load(str(target), device="cpu", dtype="float32")
    draft = write_draft(tmp_path / "draft", frozen)
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
            if architecture.name not in _DIVIDES_STATES:
                assert torch.equal(logits_TV, runner.model.compute_logits(hidden_TD))
            # The same head cut to a draft vocabulary.
            ids_J = torch.arange(1, logits_TV.size(1), 3)
            processor = draft_model.logits_processor
            few_TV = DraftHead(draft_model.target_head, processor, ids_J, hidden_TD.dtype, None).logits(hidden_TD)
            torch.testing.assert_close(few_TV[:, ids_J], logits_TV[:, ids_J], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logits_TV, frozen.head.logits(hidden_TD), rtol=1e-4, atol=1e-4)
