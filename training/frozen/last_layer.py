"""The target's last layer: what its tensors are, by the config alone, and what a loaded target's reads."""

# Shapes: B sequences, T tokens, D hidden size.

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vllm_mtp.training.frozen.shape import TargetShape
from vllm_mtp.training.frozen.target import FrozenTarget


def last_layer_shapes(config: Any) -> dict[str, torch.Size]:
    """Shapes of the last layer's tensors by name, of a config and without weights.

    Args:
        config: transformers' own.

    Returns:
        Nothing where transformers has no such class, or the class keeps no list of layers.
    """
    from transformers import AutoModel

    try:
        with torch.device("meta"):
            layers, _ = _layers_and_norm(AutoModel.from_config(config, trust_remote_code=False), config)
    except Exception:  # of any kind in code of a target's own, which may not know what is asked here
        return {}
    return {name: tensor.shape for name, tensor in layers[-1].state_dict().items()} if layers else {}


def _layers_and_norm(body: nn.Module, config: Any) -> tuple[Any, nn.Module | None]:
    """The text model's layers and the norm behind them, beside which there may be others for pictures; or neither."""
    num_layers = TargetShape.of(config.get_text_config()).num_hidden_layers
    for module in body.modules():
        layers, norm = getattr(module, "layers", None), getattr(module, "norm", None)
        if isinstance(layers, nn.ModuleList) and len(layers) == num_layers and isinstance(norm, nn.Module):
            return layers, norm
    return None, None


@dataclass(frozen=True, kw_only=True, slots=True)
class LastLayer:
    """The last layer of a target that is loaded, and the norm behind it."""

    target: FrozenTarget
    layer: nn.Module
    norm: nn.Module

    @classmethod
    def of(cls, target: FrozenTarget) -> "LastLayer | None":
        """None for a target whose layers are elsewhere (vLLM's), or are not kept in a list with a norm behind it."""
        if target.model is None:
            return None
        layers, norm = _layers_and_norm(target.body, target.config)
        return None if norm is None else cls(target=target, layer=layers[-1], norm=norm)

    def tensors(self) -> dict[str, Tensor]:
        """Its weights, and the norm's, by the names that a drafter's module has for them."""
        of_layer = {f"layer.{name}": tensor for name, tensor in self.layer.state_dict().items()}
        return of_layer | {f"norm.{name}": tensor for name, tensor in self.norm.state_dict().items()}

    @torch.no_grad()
    def read(self, ids_BT: Tensor) -> tuple[Tensor | None, Tensor]:
        """What the layer is given, and the target's hidden states after the final norm, both [B, T, D].

        The former is None where the layer is called with something else than hidden states.
        """
        given: list[Tensor | None] = [None]

        def keep(_: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
            found = args[0] if args else named.get("hidden_states")
            given.append(found if isinstance(found, Tensor) else None)

        handle = self.layer.register_forward_pre_hook(keep, with_kwargs=True)
        try:
            hidden_BTD = self.target.hidden_states(ids_BT)
        finally:
            handle.remove()
        found_BTD = given[-1]
        return (None if found_BTD is None or found_BTD.shape != hidden_BTD.shape else found_BTD), hidden_BTD
