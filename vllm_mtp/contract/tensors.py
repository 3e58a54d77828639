"""What is checked of a drafter's tensors.

Headers are checked apart from values: a safetensors header costs a read of a few hundred bytes, so that a missing or
misshapen tensor is found before the target's weights are loaded.
"""

# Shapes: J draft vocabulary.

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS_FILE = "model.safetensors"
D2T = "d2t"
"""Offsets of a draft vocabulary: the target id of draft id i is i + d2t[i]."""
_DTYPES = ("BF16", "F16", "F32", "F64")


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


def check_values(tensors: Mapping[str, "Tensor"], vocab_size: int, where: str) -> None:
    """Checks that every value is finite, and that `d2t`, where there is one, names token ids of the target.

    Raises:
        ValueError: naming the tensors that hold NaN or infinity, or what is wrong with `d2t`.
    """
    import torch

    broken = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise ValueError(f"{where} holds NaN or infinity in {', '.join(broken)}. Train or export the drafter again.")
    if D2T in tensors:
        _check_draft_vocabulary(tensors[D2T], vocab_size, where)


def draft_ids(d2t_J: "Tensor") -> "Tensor":
    """The target ids that are drafted, i + d2t[i], [J] int64."""
    import torch

    return torch.arange(len(d2t_J), device=d2t_J.device) + d2t_J


def d2t_of(draft_ids_J: "Tensor") -> "Tensor":
    """The offsets of a draft vocabulary, [J] int64: what `draft_ids` takes back."""
    import torch

    return draft_ids_J - torch.arange(len(draft_ids_J), device=draft_ids_J.device)


def _check_draft_vocabulary(d2t_J: "Tensor", vocab_size: int, where: str) -> None:
    import torch

    again = "Export the drafter again, with d2t[i] = (target id of draft id i) - i."
    if d2t_J.dtype != torch.int64:
        raise ValueError(
            f"{where}: {D2T} must be int64 offsets, got {str(d2t_J.dtype).removeprefix('torch.')}. {again}"
        )
    ids_J = draft_ids(d2t_J)
    not_ascending = (ids_J[1:] <= ids_J[:-1]).nonzero().flatten()
    if len(not_ascending):
        first = int(not_ascending[0])
        found = f"{int(ids_J[first])} and then {int(ids_J[first + 1])} at draft id {first + 1}"
        raise ValueError(f"{where}: {D2T} must name target ids in ascending order, each once, got {found}. {again}")
    if ids_J[0] < 0 or ids_J[-1] >= vocab_size:
        found = f"{int(ids_J[0])} to {int(ids_J[-1])}"
        raise ValueError(f"{where}: {D2T} must name target ids from 0 to {vocab_size - 1}, got {found}. {again}")


def check_tensors(
    tensors: Mapping[str, "Tensor"], expected: Mapping[str, tuple[int, ...]], vocab_size: int, where: str
) -> None:
    """Checks names, shapes and values of tensors in memory, as `check_shapes` and `check_values` do.

    Raises:
        ValueError: naming every missing, unexpected, misshapen or non-finite tensor, or what is wrong with `d2t`.
    """
    check_shapes({name: tuple(tensor.shape) for name, tensor in tensors.items()}, expected, where)
    check_values(tensors, vocab_size, where)


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
            slices = {name: file.get_slice(name) for name in file.keys()}
            shapes = {name: tuple(one.get_shape()) for name, one in slices.items()}
            dtypes = {name: one.get_dtype() for name, one in slices.items()}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged ({error}). Copy or export the drafter again.") from error
    check_shapes(shapes, expected, where=str(path))
    _check_dtypes(dtypes, where=str(path))


def _check_dtypes(found: Mapping[str, str], where: str) -> None:
    """Checks that weights are numbers of 16 bits or more and `d2t` is int64, under safetensors' names of them."""
    faults = [
        f"{name} in {dtype}" for name, dtype in found.items() if dtype not in (("I64",) if name == D2T else _DTYPES)
    ]
    if faults:
        expected = f"{', '.join(_DTYPES)}{f' and {D2T} in I64' if D2T in found else ''}"
        raise ValueError(f"{where}: expected weights in {expected}, got {'; '.join(faults)}. Export it again.")
