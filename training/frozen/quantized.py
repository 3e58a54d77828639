"""Plain weights from checkpoints in AWQ's and GPTQ's formats, which transformers loads with further libraries alone.

A packed tensor holds small integers q in int32; the weight is W[o, i] = scale[g(i), o] (q[i, o] - zero[g(i), o]) with a
group g of input channels. Source: AutoAWQ's and AutoGPTQ's pack functions, as vLLM reads them.
"""

# Shapes: I input channels, O output channels, G groups of input channels, P packed (32 / bits to an int32).

import copy
from typing import Any

import torch
from torch import Tensor

from vllm_mtp.common.errors import InputError
from vllm_mtp.contract.fingerprint import stored_tensors

_METHODS = ("awq", "gptq")
_BITS = (2, 4, 8)
_AWQ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)
"""Where in an int32 AWQ keeps its eight columns: column j is the number at place order[j]."""


def quantization_of(config: Any) -> dict[str, Any]:
    """What a config says of its checkpoint's quantization; empty for plain weights."""
    found = getattr(config, "quantization_config", None)
    if found is None:
        return {}
    return dict(found) if isinstance(found, dict) else dict(found.to_dict())


def is_dequantized_here(config: Any) -> bool:
    """Whether plain weights are made by this file, and not by transformers."""
    return quantization_of(config).get("quant_method") in _METHODS


def without_quantization(config: Any) -> Any:
    """A copy of the config that says nothing of quantization."""
    plain = copy.deepcopy(config)
    del plain.quantization_config
    return plain


def dequantized_tensors(target: str, config: Any, *, revision: str | None = None) -> dict[str, Tensor]:
    """Every tensor of a checkpoint under its plain name, packed ones as floating point.

    Args:
        target: folder or Hub id, whose weights are fetched where they are missing.
        config: its config, with `quantization_config`.
        revision: of a Hub id.

    Raises:
        InputError: for a packing that is not known here, or no safetensors.
    """
    quantization = quantization_of(config)
    _check(quantization)
    stored = {name: table[...] for name, table in stored_tensors(target, download=True, revision=revision)}
    if not stored:
        raise InputError("target", f"expected weights in safetensors files of {target}, found none")
    packed = [name.removesuffix(".qweight") for name in stored if name.endswith(".qweight")]
    if head := [name for name in packed if name.endswith(("lm_head", "embed_tokens"))]:
        raise InputError("target", f"the LM head of {target} is quantized ({head[0]}), and a drafter shares it")
    plain = {}
    for name in packed:
        parts = {part: stored.pop(f"{name}.{part}", None) for part in ("qweight", "qzeros", "scales", "g_idx")}
        plain[f"{name}.weight"] = _dequantize(name, parts, quantization)
    return stored | plain


def _check(quantization: dict[str, Any]) -> None:
    bits = quantization.get("bits") or quantization.get("w_bit") or 4
    version = str(quantization.get("version") or "gemm").lower()
    if bits not in _BITS or (quantization["quant_method"] == "awq" and (bits != 4 or version != "gemm")):
        what = f"{quantization['quant_method']} with {bits} bits, version {version}"
        raise InputError("target", f"expected AWQ's gemm format of 4 bits or GPTQ of 2, 4 or 8 bits, got {what}")


def _dequantize(name: str, parts: dict[str, Tensor | None], quantization: dict[str, Any]) -> Tensor:
    """The weight [O, I] of one packed tensor."""
    packed, zeros, scales_GO = parts["qweight"], parts["qzeros"], parts["scales"]
    if packed is None or zeros is None or scales_GO is None:
        raise InputError("target", f"expected qweight, qzeros and scales of {name}, not all are there")
    bits = int(quantization.get("bits") or quantization.get("w_bit") or 4)
    if quantization["quant_method"] == "awq":
        integers_IO, zeros_GO = _unpack_awq(packed), _unpack_awq(zeros)
        group_I = None
    else:
        integers_IO = _unpack(packed.T, bits).T
        zeros_GO = _unpack(zeros, bits)
        if quantization.get("checkpoint_format") != "gptq_v2":  # the first version keeps zero - 1
            zeros_GO = zeros_GO + 1
        group_I = parts["g_idx"]
    if group_I is None or (len(scales_GO) > 1 and not group_I.any()):  # zeros: not filled in
        group_I = torch.arange(len(integers_IO)) // (len(integers_IO) // len(scales_GO))
    group_I = group_I.long()
    weight_IO = scales_GO.float()[group_I] * (integers_IO - zeros_GO[group_I])
    return weight_IO.T.contiguous().to(scales_GO.dtype)


def _unpack(packed_NP: Tensor, bits: int) -> Tensor:
    """The 32 / bits small integers of each int32, lowest bits first, [N, P * 32 / bits]."""
    shifts = torch.arange(0, 32, bits, dtype=torch.int32)
    numbers: Tensor = (packed_NP[..., None] >> shifts) & (2**bits - 1)
    return numbers.flatten(-2)


def _unpack_awq(packed_NP: Tensor) -> Tensor:
    """As `_unpack` for 4 bits, in AWQ's order of the eight numbers of an int32."""
    eights: Tensor = _unpack(packed_NP, 4).unflatten(-1, (-1, 8))
    return eights[..., list(_AWQ_ORDER)].flatten(-2)
