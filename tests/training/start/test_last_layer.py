"""The target's last layer as a start: copies that compute what it does, and targets that have none to copy.

Catches: norms, biases or a rotation that are copied to another place, a unit of the residual stream that some tensor
does not share, a layer that only has the module's names, and a shape that another target's attention has.
"""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

from tests.drafts import write_random_draft
from vllm_mtp.module.mtp import MTPModule
from vllm_mtp.training.config import TrainConfig
from vllm_mtp.training.frozen.last_layer import LastLayer, last_layer_shapes
from vllm_mtp.training.frozen.target import FrozenTarget, _head_of
from vllm_mtp.training.loss.unroll import through_layer
from vllm_mtp.training.start.fitted import fit
from vllm_mtp.training.start.initial import draft_config_for, make_module
from vllm_mtp.training.start.last_layer import _MEDIAN_CHANNEL, _size, balance, feed, with_last_layer

SIZE = 32
SIZES: dict[str, Any] = {
    "vocab_size": 96, "hidden_size": SIZE, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "initializer_range": 0.4, "pad_token_id": 0,
}  # fmt: skip
IDS_BT = torch.arange(80).reshape(2, 40)
KINDS = {"Llama": (False, False), "Qwen2": (False, True), "Qwen3": (True, False), "Mistral": (False, False)}
"""Whether they norm queries and keys, and have biases."""


def config_of(name: str, **changes: Any) -> Any:
    return getattr(transformers, f"{name}Config")(**(SIZES | changes))


def target_of(name: str, **changes: Any) -> FrozenTarget:
    """A random target without a tokenizer; all that is one or zero at its start is drawn, too."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config_of(name, **changes), dtype=torch.float32).eval()
    for parameter in model.parameters():
        if parameter.ndim == 1:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    where = torch.device("cpu")
    return FrozenTarget(name=name, model=model, tokenizer=None, head=_head_of(model), device=where, dtype=torch.float32)


def module_for(target: FrozenTarget, **settings: Any) -> MTPModule:
    config = TrainConfig(sequence_length=64, **settings)
    return make_module(draft_config_for(target.config, config, {}), None, seed=0)


@pytest.mark.parametrize("name", [*KINDS, "Phi3"])
def test_the_copy_computes_what_the_target_does(name: str) -> None:
    """Through the projection's fit, and whatever unit the residual stream gets."""
    target = target_of(name)
    module, last = module_for(target), LastLayer.of(target)
    assert last is not None
    found, fault = with_last_layer(module, last, IDS_BT)
    assert found is not None, fault
    given_BTD, hidden_BTD = last.read(IDS_BT)
    assert given_BTD is not None
    ids_BL = torch.cat((IDS_BT, IDS_BT[:, :1]), dim=1)
    fitted = fit(found, target.head, [(ids_BL, hidden_BTD, given_BTD, torch.ones_like(IDS_BT, dtype=torch.bool))])
    unit = float(fitted.scale_D.median()) / _MEDIAN_CHANNEL
    feed(found, fitted)
    with torch.no_grad():
        computed_BTD, _ = through_layer(found, given_BTD / unit, torch.arange(40))
        guess_BTD = found.fuse(target.head.embed(IDS_BT[:, 1:]), hidden_BTD[:, :-1]) * unit
    torch.testing.assert_close(computed_BTD, hidden_BTD, rtol=1e-3, atol=1e-3)
    left = ((guess_BTD - given_BTD[:, 1:]) / fitted.scale_D).square().mean()
    assert float(left) == pytest.approx(fitted.unexplained, abs=0.02)
    assert fitted.unexplained < 0.9


@pytest.mark.parametrize("times", [0.01, 100.0])
def test_matrices_get_the_size_of_random_ones(times: float) -> None:
    """Where what is computed leaves it open: what a norm feeds, and two matrices in a row."""
    module = module_for(target_of("Qwen2"))
    layer, u_BTD = module.layer, torch.randn(1, 20, SIZE, generator=torch.Generator().manual_seed(1))
    attention, mlp = layer.self_attn, layer.mlp
    with torch.no_grad():
        for weight in (attention.v_proj.weight, mlp.gate_proj.weight, mlp.up_proj.weight):
            weight.mul_(times)
        torch.nn.init.normal_(attention.v_proj.bias)
        expected_BTD, _ = through_layer(module, u_BTD, torch.arange(20))
        balance(layer)
        found_BTD, _ = through_layer(module, u_BTD, torch.arange(20))
    torch.testing.assert_close(found_BTD, expected_BTD, rtol=1e-3, atol=1e-3)
    assert _size(mlp.gate_proj.weight) == pytest.approx(1, rel=0.2)
    for first, second in ((attention.v_proj, attention.o_proj), (mlp.up_proj, mlp.down_proj)):
        assert _size(first.weight) == pytest.approx(2 * _size(second.weight), rel=1e-3)


def test_matrices_of_zeros_are_left_alone() -> None:
    """As blocks have them that were added to a model and not trained."""
    module = module_for(target_of("Llama"))
    with torch.no_grad():
        for linear in (module.layer.self_attn.v_proj, module.layer.mlp.gate_proj, module.layer.mlp.up_proj):
            linear.weight.zero_()
        before = {name: tensor.clone() for name, tensor in module.layer.mlp.state_dict().items()}
        balance(module.layer)
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.layer.mlp.state_dict().items())
    assert all(parameter.isfinite().all() for parameter in module.parameters())


@pytest.mark.parametrize("name", KINDS)
def test_the_attention_is_of_the_targets_kind(name: str, tmp_path: Path) -> None:
    usual = TrainConfig(sequence_length=64)
    config = config_of(name)
    draft = draft_config_for(config, usual, {})
    assert (draft.qk_norm, draft.attention_bias) == KINDS[name]
    for qk_norm in (False, True):
        asked = draft_config_for(config, TrainConfig(sequence_length=64, qk_norm=qk_norm), {})
        assert (asked.qk_norm, asked.attention_bias) == (qk_norm, KINDS[name][1])
    initial = write_random_draft(tmp_path, draft_config_for(config_of("Qwen3"), usual, {}))
    going_on = draft_config_for(config, usual, {}, initial=initial)
    assert (going_on.qk_norm, going_on.attention_bias) == (True, False), "those of the drafter"


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if not kind[1]])
def test_the_layer_has_the_names_and_shapes_of_the_targets(name: str) -> None:
    """What `vllm-mtp export` wants; Qwen2 has no bias behind the attention, the module one."""
    config = config_of(name)
    shapes = draft_config_for(config, TrainConfig(sequence_length=64), {}).tensor_shapes()
    expected = {f"layer.{name}": tuple(shape) for name, shape in last_layer_shapes(config).items()}
    assert {name: shape for name, shape in shapes.items() if name.startswith("layer.")} == expected


@pytest.mark.parametrize(
    ("name", "changes", "settings", "message"),
    [
        ("Llama", {}, {"intermediate_size": 40}, r"layer.mlp.gate_proj.weight of \[40, 32\].*found \[48, 32\]"),
        ("Mixtral", {"num_local_experts": 4}, {}, r"layer.mlp.gate_proj.weight of \[\d+, 32\] .* found None"),
        ("Gemma2", {}, {}, "something else"),
        ("Llama", {"hidden_act": "tanh"}, {}, "something else"),
        ("Qwen3", {}, {"qk_norm": False}, "something else"),
    ],
    ids=["another width", "experts", "other norms", "another activation", "norms left out"],
)
def test_a_layer_of_another_kind_is_not_copied(
    name: str, changes: dict[str, Any], settings: dict[str, Any], message: str
) -> None:
    target = target_of(name, **changes)
    module, last = module_for(target, **settings), LastLayer.of(target)
    assert last is not None
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    found, fault = with_last_layer(module, last, IDS_BT)
    assert found is None
    assert re.search(message, fault), fault
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_layers_that_are_kept_otherwise() -> None:
    assert LastLayer.of(target_of("GPT2", n_head=4)) is None
    assert last_layer_shapes(config_of("GPT2", n_head=4)) == {}
    assert last_layer_shapes(object()) == {}
