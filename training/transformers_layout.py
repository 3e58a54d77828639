"""A drafter's weights under the names that Transformers' MTP models have in a target's checkpoint.

There the MTP layer follows the target's last: `model.layers.N.` with the block's own names, `enorm`, `hnorm`, `eh_proj`
and `shared_head.norm` (DeepSeek's layout, `MtpModel` of transformers 5.14 and later). The block is of the target's own
class, so that the drafter's layer must have its names and shapes.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vllm_mtp.common.errors import InputError
from vllm_mtp.common.files import check_own_file, write_atomically
from vllm_mtp.contract.tensors import D2T
from vllm_mtp.training.frozen.last_layer import last_layer_shapes
from vllm_mtp.training.frozen.pair import load_draft_of
from vllm_mtp.training.frozen.shape import TargetShape

_LAYER, _FINAL_NORM, _PROJECTION = "layer.", "norm.", "eh_proj.weight"


def export_to_transformers(draft: Path, target: str, output: Path, **source: Any) -> dict[str, Tensor]:
    """Writes a safetensors file to be put beside the target's own.

    Args:
        draft: folder of the drafter; a draft vocabulary is left behind, since the layout has none.
        target: folder or Hub id of its target, of which the config is read.
        output: the file.
        source: revision and trust_remote_code of the target.

    Returns:
        What was written, by name.

    Raises:
        InputError: for a drafter of another target, or a layer that is not like the target's own.
        OSError: if the file cannot be written.
    """
    from safetensors.torch import save

    _check_file(output)
    _, tensors, config = load_draft_of(target, draft, **source)
    tensors.pop(D2T, None)
    _check_layer({name: tensor.shape for name, tensor in tensors.items() if name.startswith(_LAYER)}, target, config)
    prefix = f"model.layers.{TargetShape.of(config.get_text_config()).num_hidden_layers}."
    renamed = {prefix + _renamed(name): tensor.contiguous() for name, tensor in tensors.items()}
    output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(output, save(renamed, metadata={"format": "pt"}))
    return renamed


def _check_file(path: Path) -> None:
    """Refuses to write over what is no exported drafter: a target's weights are beside it, under such a name."""
    from safetensors import SafetensorError, safe_open

    def is_own() -> bool:
        try:
            with safe_open(str(path), framework="pt") as file:
                names = list(file.keys())
        except SafetensorError:
            return False
        prefixes = [name.removesuffix(_PROJECTION) for name in names if name.endswith(_PROJECTION)]
        return len(prefixes) == 1 and all(name.startswith(prefixes[0]) for name in names)

    check_own_file(path, is_own, "an exported drafter")


def _renamed(name: str) -> str:
    if name.startswith(_LAYER):
        return name.removeprefix(_LAYER)
    return f"shared_head.{name}" if name.startswith(_FINAL_NORM) else name


def _check_layer(found: dict[str, torch.Size], target: str, config: Any) -> None:
    """Refuses a layer whose names or shapes are not those of the target's last one."""
    shapes = last_layer_shapes(config)
    if not shapes:
        raise InputError("target", f"Transformers finds no list of layers in {target}, which the layout is made of")
    expected = {_LAYER + name: shape for name, shape in shapes.items()}
    for name in sorted(found.keys() | expected.keys()):
        if found.get(name) != expected.get(name):
            sizes = (None if one is None else list(one) for one in (expected.get(name), found.get(name)))
            raise InputError(
                "draft",
                "Transformers computes the layer by the target's own class: expected {} in {}, got {}".format(
                    name, *sizes
                ),
            )
