"""How long a text a target takes. Catches a default context that vLLM refuses, and one that it would have taken."""

from typing import Any

import pytest
from transformers import Gemma3TextConfig, GPT2Config, LlamaConfig, MambaConfig

from vllm_mtp.training.frozen.context import context_of

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512, "rope_theta": 1e4}
LINEAR = {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}
FOR_GEMMA = {"full_attention": LINEAR, "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}


@pytest.mark.parametrize(
    ("config", "context"),
    [
        (LlamaConfig(max_position_embeddings=1024), 1024),
        (LlamaConfig(max_position_embeddings=2048, rope_parameters=YARN), 2048),
        (LlamaConfig(max_position_embeddings=1024, rope_parameters=LINEAR), 4096),
        (Gemma3TextConfig(max_position_embeddings=1024, rope_parameters=FOR_GEMMA), 1024),
        (GPT2Config(n_positions=512), 512),
        (MambaConfig(), None),
    ],
)
def test_the_context_of_a_target(config: Any, context: int | None) -> None:
    assert context_of(config) == context
