"""The target's head: logits as the target itself makes them.

Catches: a soft cap or a logit scale that is forgotten, inverted or applied in the other order, a divisor taken for a
factor, rows of a draft vocabulary that are other rows or keep the whole head alive.
"""

# Shapes: T tokens, D hidden size, V vocabulary, J draft vocabulary.

from typing import Any

import pytest
import torch

from vllm_mtp.module.shared_head import LogitsTransform, SharedHead

SHAPE: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def random_target(name: str) -> Any:
    """A random model of an architecture that treats its logits in a way of its own."""
    import transformers

    torch.manual_seed(0)
    if name == "gemma2":
        model: Any = transformers.Gemma2ForCausalLM(transformers.Gemma2Config(**SHAPE, final_logit_softcapping=2.0))
    elif name == "granite":
        shape = {key: value for key, value in SHAPE.items() if key != "head_dim"}
        model = transformers.GraniteForCausalLM(transformers.GraniteConfig(**shape, logits_scaling=8.0))
    elif name == "cohere2":
        model = transformers.Cohere2ForCausalLM(transformers.Cohere2Config(**SHAPE, logit_scale=0.25))
    else:
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SHAPE))
    for parameter in model.parameters():  # far from zero, so that the cap bends
        parameter.data.mul_(4 if parameter.ndim == 2 else 1)
    return model.eval().requires_grad_(False)


@pytest.mark.parametrize(
    ("name", "transform"),
    [
        ("llama", LogitsTransform()),
        ("gemma2", LogitsTransform(soft_cap=2.0)),
        ("granite", LogitsTransform(scale=1 / 8)),
        ("cohere2", LogitsTransform(scale=0.25)),
    ],
)
def test_logits_are_the_targets_own(name: str, transform: LogitsTransform) -> None:
    model = random_target(name)
    found = LogitsTransform.from_target(model.config)
    assert found == transform
    head = SharedHead(
        embedding_VD=model.get_input_embeddings().weight, head_VD=model.get_output_embeddings().weight, transform=found
    )
    ids = torch.arange(24)[None] * 7 % 60
    hidden_TD = model.base_model(input_ids=ids).last_hidden_state[0]
    expected_TV = model(input_ids=ids).logits[0]
    torch.testing.assert_close(head.logits(hidden_TD), expected_TV, rtol=1e-5, atol=1e-5)
    if transform != LogitsTransform():  # the model is such that the transform matters
        plain = SharedHead(embedding_VD=head.embedding_VD, head_VD=head.head_VD)
        assert (plain.logits(hidden_TD) - expected_TV).abs().max() > 0.1


def test_bias_and_float32() -> None:
    torch.manual_seed(0)
    table_VD, bias_V, hidden_TD = (
        torch.randn(11, 6).bfloat16(),
        torch.randn(11).bfloat16(),
        torch.randn(3, 6).bfloat16(),
    )
    head = SharedHead(embedding_VD=table_VD, head_VD=table_VD, bias_V=bias_V)
    assert head.logits(hidden_TD).dtype == torch.float32
    expected_TV = hidden_TD.float() @ table_VD.float().T + bias_V.float()
    torch.testing.assert_close(head.logits(hidden_TD), expected_TV, rtol=1e-2, atol=1e-2)
    assert torch.equal(head.embed(torch.tensor([3, 0])), table_VD[[3, 0]])


@pytest.mark.parametrize("has_bias", [False, True])
def test_a_draft_vocabularys_rows(has_bias: bool) -> None:
    torch.manual_seed(0)
    embedding_VD, head_VD, hidden_TD = torch.randn(11, 6), torch.randn(11, 6), torch.randn(3, 6)
    head = SharedHead(
        embedding_VD=embedding_VD,
        head_VD=head_VD,
        bias_V=torch.randn(11) if has_bias else None,
        transform=LogitsTransform(scale=0.7, soft_cap=2.0),
    )
    ids_J = torch.tensor([1, 4, 10])
    cut = head.cut(ids_J)
    torch.testing.assert_close(cut.logits(hidden_TD), head.logits(hidden_TD)[:, ids_J], rtol=1e-6, atol=1e-6)
    assert cut.embedding_VD is embedding_VD, "every token is embedded, whatever is drafted"
    assert cut.head_VD.is_contiguous()
    assert cut.head_VD.untyped_storage().nbytes() == 3 * 6 * 4
    assert head.cut(None) is head


@pytest.mark.parametrize("soft_cap", [None, 1.5])
@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_cap_then_scale(soft_cap: float | None, scale: float) -> None:
    logits_TV = 3 * torch.randn(5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    capped_TV = logits_TV if soft_cap is None else soft_cap * torch.tanh(logits_TV / soft_cap)
    found_TV = LogitsTransform(scale=scale, soft_cap=soft_cap)(logits_TV)
    torch.testing.assert_close(found_TV, scale * capped_TV, rtol=1e-12, atol=1e-12)
