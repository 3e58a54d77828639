"""How a target reads on: the way that is right for it is found by trying."""

from typing import Any

import pytest
import torch
from transformers import Lfm2Config, Lfm2ForCausalLM, LlamaConfig, LlamaForCausalLM

from vllm_mtp.benchmarks.simulation import reading
from vllm_mtp.benchmarks.simulation.reading import Anew, CutBack, OneByOne, reading_of
from vllm_mtp.module.shared_head import SharedHead
from vllm_mtp.training.frozen.target import FrozenTarget

SIZES = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "initializer_range": 0.3,
}  # fmt: skip


def frozen(model: Any) -> FrozenTarget:
    model = model.eval().requires_grad_(False)
    head = SharedHead(embedding_VD=model.get_input_embeddings().weight, head_VD=model.lm_head.weight)
    return FrozenTarget(
        name="tiny", model=model, tokenizer=None, head=head, device=torch.device("cpu"), dtype=torch.float32
    )


@pytest.fixture(scope="module")
def attention() -> FrozenTarget:
    torch.manual_seed(0)
    return frozen(LlamaForCausalLM(LlamaConfig(**SIZES)))


@pytest.fixture(scope="module")
def convolution() -> FrozenTarget:
    torch.manual_seed(0)
    return frozen(Lfm2ForCausalLM(Lfm2Config(**SIZES, layer_types=["conv", "full_attention"])))


def test_the_cheapest_right_way_is_taken(attention: FrozenTarget, convolution: FrozenTarget) -> None:
    assert reading_of(attention) is CutBack
    assert reading_of(convolution) is OneByOne


@pytest.mark.parametrize("way", [OneByOne, Anew])
def test_every_way_that_cuts_nothing_is_right_everywhere(
    attention: FrozenTarget, convolution: FrozenTarget, way: type[reading.Reading]
) -> None:
    assert reading._is_right(way, attention)
    assert reading._is_right(way, convolution)


def test_a_state_that_keeps_rejected_tokens_is_noticed(
    attention: FrozenTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a probe that would pass anything."""
    for way in (CutBack, Anew):
        monkeypatch.setattr(way, "keep", lambda self, num_tokens: None)
        assert not reading._is_right(way, attention)
