"""`embed_hidden_projection`: the entry of a draft step, and of a training step, in both forms, against the others."""

# Shapes: T tokens, V vocabulary, D hidden size.

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vllm_mtp.benchmarks.kernels.case import KernelCase, Run, compiled
from vllm_mtp.benchmarks.kernels.timing import elsewhere
from vllm_mtp.kernels.ops import embed_hidden_projection, fold_norm_weights

EPS = 1e-6
_VOCABULARY = 32768
SHAPES = {
    "smoke": [(3, 64)],
    "quick": [(1, 4096), (64, 4096), (8192, 4096)],
    "full": [(tokens, hidden) for hidden in (2048, 4096) for tokens in (1, 8, 64, 512, 8192)],
}


def cases(size: str) -> list[KernelCase]:
    """Forward at every shape of a size, and forward with backward at the largest number of tokens."""
    most = max(tokens for tokens, _ in SHAPES[size])
    return [
        *(_case(*shape, backward=False) for shape in SHAPES[size]),
        *(_case(*shape, backward=True) for shape in SHAPES[size] if shape[0] == most),
    ]


def _case(num_tokens: int, size: int, *, backward: bool) -> KernelCase:
    def providers(device: torch.device) -> Mapping[str, Run | str]:
        inputs = make_inputs(device, num_tokens, size, wants_gradient=backward)
        in_one_graph = compiled(_eager)
        two_launches: dict[str, Any] = {**inputs, "eps": EPS, "one_launch": False}
        if backward:
            gradient = torch.ones(num_tokens, size, dtype=torch.bfloat16, device=device)
            return {
                "eager": lambda: _eager(**inputs).backward(gradient),
                "torch.compile": lambda: in_one_graph(**inputs).backward(gradient),
                "vllm-mtp": lambda: embed_hidden_projection(**two_launches).backward(gradient),
            }
        one_launch: dict[str, Any] = {
            **{name: inputs[name] for name in ("ids", "emb", "h")},
            "w": fold_norm_weights(*(inputs[name] for name in ("w", "g_e", "g_h"))),
            "eps": EPS,
            "one_launch": True,
        }
        return {
            "eager": lambda: _eager(**inputs),
            "torch.compile": lambda: in_one_graph(**inputs),
            "vllm-mtp": lambda: embed_hidden_projection(**two_launches),
            "vllm-mtp, one launch": lambda: embed_hidden_projection(**one_launch),
            "vLLM's fused norms, then the product": elsewhere(inputs["w"], partial(_vllm, **inputs)),
        }

    products = 3 if backward else 1
    return KernelCase(
        "embed_hidden_projection, forward and backward" if backward else "embed_hidden_projection",
        {"tokens": num_tokens, "hidden": size},
        floor_flops=4 * products * num_tokens * size**2,
        floor_bytes=2 * products * (2 * size**2 + 3 * num_tokens * size),
        providers=providers,
        in_graph=not backward,
    )


def make_inputs(device: torch.device, num_tokens: int, size: int, *, wants_gradient: bool) -> dict[str, Any]:
    generator = torch.Generator(device).manual_seed(0)

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return (scale * torch.randn(*shape, generator=generator, device=device)).bfloat16()

    inputs = {
        "ids": torch.randint(_VOCABULARY, (num_tokens,), generator=generator, device=device),
        "emb": normal(_VOCABULARY, size),
        "h": normal(num_tokens, size),
        "w": normal(size, 2 * size, scale=size**-0.5),
        "g_e": normal(size),
        "g_h": normal(size),
    }
    for name in ("h", "w", "g_e", "g_h"):
        inputs[name].requires_grad_(wants_gradient)
    return inputs


def _eager(ids: Tensor, emb: Tensor, h: Tensor, w: Tensor, g_e: Tensor, g_h: Tensor) -> Tensor:
    shape = h.shape[-1:]
    normed = torch.cat((F.rms_norm(F.embedding(ids, emb), shape, g_e, EPS), F.rms_norm(h, shape, g_h, EPS)), dim=-1)
    return F.linear(normed, w)


def _vllm(ids: Tensor, emb: Tensor, h: Tensor, w: Tensor, g_e: Tensor, g_h: Tensor) -> Run:
    """What vLLM's DeepSeek V3.2 drafts with; it masks position 0, of which there is none here."""
    from vllm.model_executor.layers.fused_embed_norm import fused_embed_eh_norm

    positions = torch.ones_like(ids)
    return lambda: F.linear(fused_embed_eh_norm(positions, ids, emb, h, g_e, g_h, EPS), w)
