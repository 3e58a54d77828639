"""The target's last layer to start from, and a projection that feeds it.

The target's own way to h_{t+1} ends with its last layer and its final norm. The module's start as copies of them, and
the projection as the linear map that says most of what that layer reads at t + 1: a target whose earlier layers are
replaced by one map. To layer and norm a multiple of the residual stream is the same, so that its unit is chosen for the
optimizer, whose steps are of one size whatever the weights'.
"""

# Shapes: B rows, T tokens, D hidden size.

import copy
import math
from typing import NamedTuple

import torch
from torch import Tensor

from vllm_mtp.module.mtp import DecoderLayer, MTPModule
from vllm_mtp.training.frozen.last_layer import LastLayer
from vllm_mtp.training.loss.unroll import through_layer
from vllm_mtp.training.start.fitted import Fit
from vllm_mtp.training.start.initial import INTO_STREAM, SIZE_INTO_STREAM

_MAX_ERROR = 0.1
"""Relative: bfloat16 is off by 0.01; what is close (GELU for SiLU, rotation scaled for long contexts) is a start."""
_MEDIAN_CHANNEL = 4.0
"""Its size in the residual stream: the projection's weights are then some four times those of random ones, and learn
more slowly than the layer's."""
_FUSED = {
    "layer.self_attn.qkv_proj.weight": [f"layer.self_attn.{name}_proj.weight" for name in "qkv"],
    "layer.mlp.gate_up_proj.weight": ["layer.mlp.gate_proj.weight", "layer.mlp.up_proj.weight"],
}
"""Matrices that some targets (Phi 3) keep as one, and those that they are."""


class Copied(NamedTuple):
    """A module with the last layer in it, or why there is none."""

    module: MTPModule | None
    fault: str = ""


@torch.no_grad()
def with_last_layer(module: MTPModule, last: LastLayer, ids_BT: Tensor) -> Copied:
    """A copy of a module that has the target's last layer and final norm, if it computes what they do.

    Args:
        module: left as it is.
        last: the target's.
        ids_BT: text that both are tried on.
    """
    given_BTD, hidden_BTD = last.read(ids_BT)
    if given_BTD is None:
        return Copied(None, "the target's last layer is not called with hidden states")
    changed = copy.deepcopy(module)
    fault = _copy(last.tensors(), changed) or _difference(changed, given_BTD.float(), hidden_BTD.float())
    return Copied(None, fault) if fault else Copied(changed)


def _copy(tensors: dict[str, Tensor], module: MTPModule) -> str:
    """Changes layer and final norm; returns why some of them could not be."""
    parameters = {name: one for name, one in module.named_parameters() if name.startswith(("layer.", "norm."))}
    for fused, names in _FUSED.items():
        sizes = [len(parameters[name]) for name in names]
        if fused in tensors and len(tensors[fused]) == sum(sizes):
            tensors = tensors | dict(zip(names, tensors[fused].split(sizes), strict=True))
    for name, parameter in parameters.items():
        found = tensors.get(name)
        if found is None and name.endswith("o_proj.bias"):  # Qwen2 has biases before the attention alone
            parameter.zero_()
        elif found is None or found.shape != parameter.shape:
            shape = None if found is None else list(found.shape)
            return f"expected {name} of {list(parameter.shape)} in the target's last layer, found {shape}"
        else:
            parameter.copy_(found)
    return ""


def _difference(module: MTPModule, given_BTD: Tensor, hidden_BTD: Tensor) -> str:
    """What is wrong with what the module makes of the layer's input, beside what the layer added to it."""
    computed_BTD, _ = through_layer(module, given_BTD, torch.arange(given_BTD.size(1), device=given_BTD.device))
    error = float((computed_BTD - hidden_BTD).norm() / (hidden_BTD - module.norm(given_BTD)).norm())
    if error < _MAX_ERROR:
        return ""
    return f"the target's last layer computes something else than the module's (off by {error:.0%})"


@torch.no_grad()
def feed(module: MTPModule, fit: Fit) -> None:
    """Sets the projection of a module with the target's last layer to what that layer reads.

    Args:
        module: changed; the residual stream gets a unit in which the median channel is of size _MEDIAN_CHANNEL.
        fit: of [embedding; h_t] to what the layer reads at t + 1.
    """
    unit = float(fit.scale_D.median()) / _MEDIAN_CHANNEL
    module.eh_proj.weight.copy_(fit.weight_DI * fit.scale_D[:, None] / unit)
    for name, parameter in module.layer.named_parameters():
        if name.endswith((*INTO_STREAM, "o_proj.bias")):
            parameter.div_(unit)
    balance(module.layer)


@torch.no_grad()
def balance(layer: DecoderLayer) -> None:
    """Brings a layer's matrices near the size of random ones, as far as it computes the same.

    A step of Muon is of one size whatever the matrix's: a large one hardly learns, a small one is soon another. A norm
    takes the size of the matrices that read it, and of two matrices one after another each gets the same share of both.
    """
    attention, mlp = layer.self_attn, layer.mlp
    _into_norm(layer.input_layernorm.weight, attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight)
    _into_norm(layer.post_attention_layernorm.weight, mlp.gate_proj.weight, mlp.up_proj.weight)
    share = _share_evenly(attention.v_proj.weight, attention.o_proj.weight)
    if attention.v_proj.bias is not None:
        attention.v_proj.bias.div_(share)
    _share_evenly(mlp.up_proj.weight, mlp.down_proj.weight)


def _into_norm(norm_D: Tensor, *weights: Tensor) -> None:
    size = _size(torch.cat(weights)) or 1.0
    norm_D.mul_(size)
    for weight in weights:
        weight.div_(size)


def _share_evenly(first: Tensor, second: Tensor) -> float:
    """What the first was divided by, and the second multiplied with."""
    if not _size(first) * _size(second):  # all zero, as in blocks that were added to a model
        return 1.0
    share = math.sqrt(_size(first) / (_size(second) / SIZE_INTO_STREAM))
    first.div_(share)
    second.mul_(share)
    return share


def _size(weight: Tensor) -> float:
    """Root mean square beside that of the random matrix that keeps a vector's size."""
    return math.sqrt(float(weight.detach().square().mean()) * weight.size(1))
