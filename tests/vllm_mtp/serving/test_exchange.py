"""Rows cut from the target's head follow it when its weights are exchanged.

Catches: drafts by old rows after `reload_weights` or after a write into the weights, rows cut while vLLM has the layer
in pieces, rows of what a CPU does not multiply by, memory that a captured CUDA graph no longer reads, a watch that
outlives its engine.
"""

# Shapes: V vocabulary, J draft vocabulary, D hidden size, T rows of hidden states.

import gc
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.vllm_mtp.serving.test_heads import HIDDEN_SIZE, SOME, VOCAB_SIZE, Head, Int8Method, config, draft_model

pytestmark = pytest.mark.vllm
__all__ = ["config"]  # the fixture, which is used by its name

HIDDEN_TD = torch.randn(200, HIDDEN_SIZE, generator=torch.Generator().manual_seed(1))
FORMS: dict[str, dict[str, Any]] = {
    "layers": {},
    "kernel": {"by_kernel": True},
    "int8 by the kernel": {"by_kernel": True, "head_dtype": "int8"},
    "int8 by layers": {"head_dtype": "int8"},
}


def table(seed: int) -> Tensor:
    return torch.randn(VOCAB_SIZE, HIDDEN_SIZE, generator=torch.Generator().manual_seed(seed))


def best(table_VD: Tensor, bias_V: Tensor | None = None) -> list[int]:
    """What is drafted from HIDDEN_TD by the rows of a table."""
    logits_TV = nn.functional.linear(HIDDEN_TD, table_VD, bias_V)
    return [SOME[row] for row in logits_TV[:, list(SOME)].argmax(-1).tolist()]


def written(head: Head, table_VD: Tensor) -> None:
    """New weights, in place and without a word, as a trainer writes them."""
    head.weight.data[:VOCAB_SIZE].copy_(table_VD)


def agreement(model: Any, expected: list[int]) -> float:
    with torch.inference_mode():
        model(None, None, HIDDEN_TD)
        found = model.get_top_tokens(HIDDEN_TD).tolist()
    return sum(one == two for one, two in zip(found, expected, strict=True)) / len(expected)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("with_bias", [False, True], ids=["no bias", "bias"])
def test_weights_written_in_place_are_followed(form: dict[str, Any], with_bias: bool) -> None:
    bias_V = table(3)[:, 0] if with_bias else None
    head = Head(table(0), bias_V)
    model = draft_model(head, SOME, **form)
    assert agreement(model, best(table(0), bias_V)) > 0.95
    assert agreement(model, best(table(2), bias_V)) < 0.5, "the tables draft alike: the test could not fail"
    place = model.chosen_head.weight.data_ptr()
    written(head, table(2))
    head.quant_method.process_weights_after_loading(head)  # as whoever writes on a CPU must
    assert agreement(model, best(table(2), bias_V)) > 0.95
    assert model.chosen_head.weight.data_ptr() == place


def test_rows_are_of_what_the_target_multiplies_by() -> None:
    """On a CPU vLLM has packed the old weight: until it packs the new one, the target and its drafts are the old."""
    head = Head(table(0))
    model = draft_model(head, SOME)
    assert agreement(model, best(table(0))) == 1
    written(head, table(2))
    of_target = head.quant_method.apply(head, HIDDEN_TD)[:, list(SOME)].argmax(-1).tolist()
    assert agreement(model, [SOME[row] for row in of_target]) > 0.99


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_reload_by_vllm_is_followed_before_any_pass(form: dict[str, Any]) -> None:
    """As vLLM's layerwise reload does it: to the meta device, memory without values, copied into the old one, put back.

    No pass may be needed: on a GPU it is replayed from a CUDA graph, in which nothing is looked at.
    """
    head = Head(table(0), table(3)[:, 0])
    model = draft_model(head, SOME, **form)
    agreement(model, best(table(0)))
    kernel, bias, place = head.weight, head.bias, model.chosen_head.weight.data_ptr()
    del head.weight, head.bias
    head.register_parameter("weight", nn.Parameter(torch.empty_like(kernel, device="meta"), requires_grad=False))
    del head.weight
    rows = model.chosen_head.weight.clone()
    head.register_parameter("weight", nn.Parameter(torch.full_like(kernel, 7), requires_grad=False))
    assert torch.equal(model.chosen_head.weight, rows), "rows of memory without values"
    kernel.data[:VOCAB_SIZE].copy_(table(2))
    del head.weight
    head.register_parameter("weight", kernel)
    head.register_parameter("bias", bias)
    with torch.inference_mode():
        found = model.get_top_tokens(HIDDEN_TD).tolist()
    expected = best(table(2), table(3)[:, 0])
    assert sum(one == two for one, two in zip(found, expected, strict=True)) > 0.95 * len(expected)
    assert model.chosen_head.weight.data_ptr() == place


def test_quantized_head_is_followed() -> None:
    head = Head(table(0), method=Int8Method())
    model = draft_model(head, SOME)
    assert agreement(model, best(table(0))) > 0.95
    other = Head(table(2), method=Int8Method())
    head.qweight.data.copy_(other.qweight)
    head.scale_V.copy_(other.scale_V)
    assert agreement(model, best(table(2))) > 0.95


def test_asked_to_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a trainer calls on a GPU, where nothing is looked at before a pass."""
    head = Head(table(0))
    model = draft_model(head, SOME)
    model.follow_head()
    assert agreement(model, best(table(0))) == 1
    monkeypatch.setattr(model.watch, "look", lambda: None)
    written(head, table(2))
    head.quant_method.process_weights_after_loading(head)
    assert agreement(model, best(table(2))) < 0.5
    model.follow_head()
    assert agreement(model, best(table(2))) == 1


def test_rows_that_cannot_be_followed_stay(caplog: pytest.LogCaptureFixture) -> None:
    """Catches an engine that dies for everybody of a trainer that has written NaN."""
    head = Head(table(0))
    model = draft_model(head, SOME)
    assert agreement(model, best(table(0))) == 1
    written(head, torch.full((VOCAB_SIZE, HIDDEN_SIZE), float("nan")))
    head.quant_method.process_weights_after_loading(head)
    for _ in range(2):
        assert agreement(model, best(table(0))) == 1
    assert ["keeps the rows" in record.getMessage() for record in caplog.records] == [True]


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_rows_are_none_of_the_draft_models_weights(form: dict[str, Any]) -> None:
    """Catches a reload of the draft model that takes the rows from the head: no checkpoint has them."""
    model = draft_model(Head(table(0)), SOME, **form)
    agreement(model, best(table(0)))
    assert [name for name, _ in model.named_parameters()] == ["lm_head.weight"]
    assert [name for name, _ in model.named_buffers()] == ["d2t"]


def test_nothing_is_watched_without_a_copy_or_after_the_engine() -> None:
    from torch.nn.modules import module

    hooks = module._global_parameter_registration_hooks
    gc.collect()
    before = len(hooks)
    model = draft_model(Head(table(0)), None)
    model(None, None, HIDDEN_TD)
    assert len(hooks) == before
    model = draft_model(Head(table(0)), SOME)
    model(None, None, HIDDEN_TD)
    assert len(hooks) == before + 1
    del model
    gc.collect()
    assert len(hooks) == before
