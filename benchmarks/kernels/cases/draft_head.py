"""`draft_head`: the best token of a draft step, against those who write the logits."""

# Shapes: T tokens, D hidden size, V rows of the head.

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from vllm_mtp.benchmarks.kernels.case import KernelCase, Run, compiled
from vllm_mtp.kernels.ops import HeadRows, draft_head, quantize_head

SHAPES = {
    "smoke": [(3, 64, 512)],
    "quick": [(tokens, 4096, vocab) for vocab in (32768, 151936) for tokens in (1, 64)],
    "full": [(tokens, hidden, vocab) for hidden in (2048, 4096) for vocab in (32768, 151936) for tokens in (1, 8, 64)],
}
_QUANTIZED = {"float8": torch.float8_e4m3fn, "int8": torch.int8}


def cases(size: str) -> list[KernelCase]:
    """Rows as they are, in float8 and in int8, at every shape of a size."""
    return [_case(*shape, rows) for shape in SHAPES[size] for rows in ("bfloat16", *_QUANTIZED)]


def _case(num_tokens: int, hidden_size: int, num_rows: int, rows: str) -> KernelCase:
    """Eager and torch.compile have the rows in bfloat16 in every case: what a head in 8 bits is to replace."""

    def providers(device: torch.device) -> Mapping[str, Run | str]:
        hidden_TD, weight_VD = make_inputs(device, num_tokens, hidden_size, num_rows)
        in_one_graph = compiled(_eager)
        found: dict[str, Run | str] = {
            "eager": lambda: _eager(hidden_TD, weight_VD),
            "torch.compile": lambda: in_one_graph(hidden_TD, weight_VD),
        }
        if rows == "bfloat16":
            return {**found, "vllm-mtp": lambda: draft_head(hidden_TD, HeadRows(weight_VD))}
        dtype = _QUANTIZED[rows]
        if dtype == torch.float8_e4m3fn and device.type == "cuda" and not has_float8(device):
            return {**found, "vllm-mtp": "this GPU multiplies no float8"}
        return {**found, **_in_8_bits(hidden_TD, weight_VD, dtype)}

    byte = 2 if rows == "bfloat16" else 1
    return KernelCase(
        "draft_head" if rows == "bfloat16" else f"draft_head, {rows} rows",
        {"tokens": num_tokens, "hidden": hidden_size, "vocabulary": num_rows},
        floor_flops=2 * num_tokens * hidden_size * num_rows,
        floor_bytes=byte * num_rows * hidden_size + 2 * num_tokens * hidden_size,
        providers=providers,
        in_graph=True,
    )


def _in_8_bits(hidden_TD: Tensor, weight_VD: Tensor, dtype: torch.dtype) -> Mapping[str, Run]:
    """As it is served, float8 with hidden states in float8, int8 with those as they are, and the other way.

    Where hidden states are rounded, that is part of the work.
    """
    rows = HeadRows(*quantize_head(weight_VD, dtype))

    def both() -> object:
        quantized_TD, hidden_scale_T = quantize_head(hidden_TD, dtype)
        return draft_head(quantized_TD, rows, hidden_scale_T)

    def rows_alone() -> object:
        return draft_head(hidden_TD, rows)

    if dtype == torch.float8_e4m3fn:
        return {"vllm-mtp": both, "vllm-mtp, hidden states as they are": rows_alone}
    return {"vllm-mtp": rows_alone, "vllm-mtp, hidden states too": both}


def has_float8(device: torch.device) -> bool:
    return torch.version.hip is None and torch.cuda.get_device_capability(device) >= (8, 9)


def make_inputs(device: torch.device, num_tokens: int, hidden_size: int, num_rows: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator(device).manual_seed(0)
    hidden_TD = torch.randn(num_tokens, hidden_size, generator=generator, device=device)
    weight_VD = torch.randn(num_rows, hidden_size, generator=generator, device=device) / hidden_size**0.5
    return hidden_TD.bfloat16(), weight_VD.bfloat16()


def _eager(hidden_TD: Tensor, weight_VD: Tensor) -> Tensor:
    return F.linear(hidden_TD, weight_VD).argmax(-1)
