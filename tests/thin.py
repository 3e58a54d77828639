"""A target with a part of its layers: as fluent as tests need, and a step takes a part of the time."""

import json
import re
import shutil
from pathlib import Path

_LAYER = re.compile(r"(?<=layers\.)\d+")


def with_one_layer_of(n: int, target: Path, folder: Path) -> Path:
    """A copy of a target whose layers are its layers 0, n, 2n and so on."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(target, folder, copy_function=shutil.copyfile)
    config = json.loads((folder / "config.json").read_text())
    kept = range(0, config["num_hidden_layers"], n)
    config |= {"num_hidden_layers": len(kept), "layer_types": [config["layer_types"][layer] for layer in kept]}
    (folder / "config.json").write_text(json.dumps(config))
    tensors = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        match = _LAYER.search(name)
        if match is None:
            tensors[name] = tensor
        elif int(match[0]) in kept:
            tensors[_LAYER.sub(str(kept.index(int(match[0]))), name)] = tensor
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
