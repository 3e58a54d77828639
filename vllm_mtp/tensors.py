"""What is checked of a drafter's tensors.

Headers are checked apart from values: a safetensors header costs a read of a few hundred bytes, so that a missing or
misshapen tensor is found before the target's weights are loaded.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS_FILE = "model.safetensors"


def check_shapes(found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]], where: str) -> None:
    """Checks that a checkpoint holds exactly the expected tensors (`MTPConfig.tensor_shapes`), in their shapes.

    Raises:
        ValueError: naming every missing, unexpected and misshapen tensor.
    """
    faults = [f"missing {name}" for name in expected if name not in found]
    faults += [f"unexpected {name}" for name in found if name not in expected]
    for name in expected:
        if name in found and tuple(found[name]) != expected[name]:
            faults.append(f"{name} has shape {list(found[name])}, config.json says {list(expected[name])}")
    if faults:
        raise ValueError(f"{where} does not fit its config.json: {'; '.join(faults)}. Export the drafter again.")


def check_values(tensors: Iterable[tuple[str, "Tensor"]], where: str) -> None:
    """Checks that every value is finite.

    Raises:
        ValueError: naming the tensors that hold NaN or infinity.
    """
    import torch

    broken = [name for name, tensor in tensors if not torch.isfinite(tensor).all()]
    if broken:
        raise ValueError(f"{where} holds NaN or infinity in {', '.join(broken)}. Train or export the drafter again.")


def check_tensors(tensors: Mapping[str, "Tensor"], expected: Mapping[str, tuple[int, ...]], where: str) -> None:
    """Checks names, shapes and values of tensors in memory.

    Raises:
        ValueError: naming every missing, unexpected, misshapen or non-finite tensor.
    """
    check_shapes({name: tuple(tensor.shape) for name, tensor in tensors.items()}, expected, where)
    check_values(tensors.items(), where)


def check_folder(folder: Path, expected: Mapping[str, tuple[int, ...]]) -> None:
    """Checks the folder's files by their headers: safetensors alone, complete, the right names and shapes.

    Raises:
        ValueError: if there is no model.safetensors, if it is damaged, if another weights file lies beside it, or
            if its tensors are not the expected ones.
    """
    from safetensors import SafetensorError, safe_open

    path = folder / WEIGHTS_FILE
    if not path.is_file():
        raise ValueError(f"{folder}: expected the drafter's weights in {WEIGHTS_FILE}, found no such file.")
    others = [p.name for p in sorted(folder.iterdir()) if p.suffix in (".bin", ".pt", ".pth", ".safetensors")]
    others.remove(WEIGHTS_FILE)
    if others:
        raise ValueError(
            f"{folder}: expected {WEIGHTS_FILE} as the only weights file, found {', '.join(others)} beside it. "
            "Move it away: vLLM might load it instead, and a pickle can run code."
        )
    try:
        with safe_open(str(path), framework="pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}). Copy or export the drafter again.") from error
    check_shapes(shapes, expected, where=str(path))
