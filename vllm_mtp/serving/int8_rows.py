"""Rows of a draft head that stay in int8, where a CPU multiplies such: a draft step reads half the bytes.

By the kernel that vLLM has for int8 layers. It rounds hidden states to int8 too, token by token, which costs a draft
next to nothing, and a CPU without integer dot products would take longer with it than with rows as they are.
"""

# Shapes: N rows, D hidden size, T tokens.

from typing import Any

import torch
from torch import Tensor, nn
from vllm.model_executor.layers.logits_processor import LogitsProcessor

_DTYPES = (torch.bfloat16, torch.float16)
_CAPABILITIES = ("amx_int8", "avx512_vnni")


def can_multiply_int8(processor: LogitsProcessor, weight_ND: Tensor) -> bool:
    """Whether this vLLM and this processor multiply the rows in int8, and faster than as they are."""
    if weight_ND.device.type != "cpu" or weight_ND.dtype not in _DTYPES:
        return False
    if getattr(processor, "head_dtype", None) not in (None, weight_ND.dtype):
        return False  # vLLM's logits in another dtype want rows that are no quantized ones
    has = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return any(has.get(name) for name in _CAPABILITIES) and _kernel() is not None


def _kernel() -> Any:
    """A new kernel of vLLM's for a scale a row, and one a token that is taken when it comes; None where it has none."""
    try:
        from vllm.model_executor.kernels.linear import init_int8_linear_kernel

        return init_int8_linear_kernel(
            is_channelwise=True, is_static_input_scheme=False, input_symmetric=True, module_name="the draft head"
        )
    except (ImportError, TypeError, ValueError):
        return None


class _Layer(nn.Module):
    """What the kernel asks of a layer."""

    logical_widths: list[int]


class Int8Rows:
    """What `LogitsProcessor` asks of a head's quantization, for rows that were quantized here."""

    def __init__(self, rows_ND: Tensor, scale_N: Tensor, bias_N: Tensor | None, dtype: torch.dtype) -> None:
        """Packs the rows.

        Args:
            rows_ND: int8.
            scale_N: float32; a row times its scale is the row that was meant.
            bias_N: of `dtype`.
            dtype: of hidden states.
        """
        self._kernel = _kernel()
        self._layer = _Layer()
        self._layer.logical_widths = [len(rows_ND)]
        packed = {"weight": rows_ND, "weight_scale": scale_N[:, None], "bias": bias_N}
        for name in ("weight", "weight_scale", "bias", "input_scale", "input_zero_point", "azp_adj"):
            value = packed.get(name)
            parameter = None if value is None else nn.Parameter(value, requires_grad=False)
            self._layer.register_parameter(name, parameter)
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)  # what the kernel gives, as while vLLM loads a model
        try:
            self._kernel.process_weights_after_loading(self._layer)
        finally:
            torch.set_default_dtype(before)

    def apply(self, layer: nn.Module, hidden_TD: Tensor, bias: Tensor | None = None) -> Tensor:
        """The rows' logits, [T, N]; `bias` says only whether theirs is added."""
        logits_TN: Tensor = self._kernel.apply_weights(self._layer, hidden_TD, bias)
        return logits_TN
