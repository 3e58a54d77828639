"""`embed_hidden_projection`: the entry of a draft step, against the others."""

# Shapes: T tokens, V vocabulary, D hidden size, N outputs, C = 2D.

from collections.abc import Mapping
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from vllm_mtp.benchmarks.kernels.case import KernelCase, Run, compiled
from vllm_mtp.benchmarks.kernels.timing import elsewhere
from vllm_mtp.kernels.ops import embed_hidden_projection

EPS = 1e-6
_VOCABULARY = 32768
SHAPES = {
    "smoke": [(3, 64)],
    "quick": [(1, 4096), (64, 4096), (8192, 4096)],
    "full": [(tokens, hidden) for hidden in (2048, 4096) for tokens in (1, 8, 64, 512, 8192)],
}


def cases(size: str) -> list[KernelCase]:
    """One for each shape of a size."""
    return [_case(*shape) for shape in SHAPES[size]]


def _case(num_tokens: int, size: int) -> KernelCase:
    def providers(device: torch.device) -> Mapping[str, Run | str]:
        inputs = make_inputs(device, num_tokens, size)
        in_one_graph = compiled(_eager)
        return {
            "eager": lambda: _eager(**inputs),
            "torch.compile": lambda: in_one_graph(**inputs),
            "vllm-mtp": lambda: embed_hidden_projection(**inputs, eps=EPS),
            "vLLM's fused norms, then the product": elsewhere(inputs["weight_NC"], partial(_vllm, **inputs)),
        }

    return KernelCase(
        "embed_hidden_projection",
        {"tokens": num_tokens, "hidden": size},
        floor_flops=4 * num_tokens * size**2,
        floor_bytes=2 * (2 * size**2 + 3 * num_tokens * size),
        providers=providers,
        in_graph=True,
    )


def make_inputs(device: torch.device, num_tokens: int, size: int) -> dict[str, Tensor]:
    generator = torch.Generator(device).manual_seed(0)

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return (scale * torch.randn(*shape, generator=generator, device=device)).bfloat16()

    return {
        "ids_T": torch.randint(_VOCABULARY, (num_tokens,), generator=generator, device=device),
        "embedding": normal(_VOCABULARY, size),
        "hidden_TD": normal(num_tokens, size),
        "weight_NC": normal(size, 2 * size, scale=size**-0.5),
        "embed_norm_D": normal(size),
        "hidden_norm_D": normal(size),
    }


def _eager(
    ids_T: Tensor, embedding: Tensor, hidden_TD: Tensor, weight_NC: Tensor, embed_norm_D: Tensor, hidden_norm_D: Tensor
) -> Tensor:
    shape, rows_TD = hidden_TD.shape[-1:], F.embedding(ids_T, embedding)
    halves = F.rms_norm(rows_TD, shape, embed_norm_D, EPS), F.rms_norm(hidden_TD, shape, hidden_norm_D, EPS)
    return F.linear(torch.cat(halves, dim=-1), weight_NC)


def _vllm(
    ids_T: Tensor, embedding: Tensor, hidden_TD: Tensor, weight_NC: Tensor, embed_norm_D: Tensor, hidden_norm_D: Tensor
) -> Run:
    """What vLLM's DeepSeek V3.2 drafts with; it masks position 0, of which there is none here."""
    from vllm.model_executor.layers.fused_embed_norm import fused_embed_eh_norm

    positions_T, norms = torch.ones_like(ids_T), (embed_norm_D, hidden_norm_D, EPS)
    return lambda: F.linear(fused_embed_eh_norm(positions_T, ids_T, embedding, hidden_TD, *norms), weight_NC)
