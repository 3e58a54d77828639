"""The entry of an MTP module on a GPU, at the sizes of real modules.

Catches: what the interpreter cannot show: asynchronous copies that overtake each other, real rounding, a launch that a
CUDA graph does not repeat, a concatenation that is kept for backward.
"""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.kernels.compare import error
from vllm_mtp.kernels.ops import embed_hidden_projection

pytestmark = pytest.mark.gpu

FORMS = pytest.mark.parametrize("one_launch", [False, True], ids=["two launches", "one launch"])
GRADIENTS = ("h", "w", "g_e", "g_h")


def arguments(num_tokens: int, size: int, dtype: torch.dtype = torch.bfloat16) -> dict[str, Any]:
    generator = torch.Generator("cuda").manual_seed(0)

    def random(*shape: int, wants_gradient: bool = True) -> torch.Tensor:
        x = torch.randn(*shape, generator=generator, device="cuda", dtype=torch.bfloat16)
        return x.to(dtype).requires_grad_(wants_gradient)

    return {
        "ids": torch.randint(1000, (num_tokens,), generator=generator, device="cuda"),
        "emb": random(1000, size, wants_gradient=False),
        **{"h": random(num_tokens, size), "w": random(size, 2 * size), "g_e": random(size), "g_h": random(size)},
    }


def eager(ids: torch.Tensor, emb: torch.Tensor, h: torch.Tensor, w: torch.Tensor, g_e: Any, g_h: Any) -> torch.Tensor:
    shape = h.shape[-1:]
    return F.linear(torch.cat((F.rms_norm(emb[ids], shape, g_e, 1e-6), F.rms_norm(h, shape, g_h, 1e-6)), -1), w)


@FORMS
@pytest.mark.parametrize("num_tokens", [1, 16, 17, 64, 1000])
@pytest.mark.parametrize("size", [2048, 4096])
def test_as_exact_as_eager(num_tokens: int, size: int, one_launch: bool) -> None:
    """Value and gradients: at most 1.5 times the error of eager bfloat16 against float64."""
    exact, ours, theirs = (arguments(num_tokens, size, d) for d in (torch.float64, torch.bfloat16, torch.bfloat16))
    outputs = (
        eager(**exact),
        embed_hidden_projection(**ours, eps=1e-6, one_launch=one_launch),
        eager(**theirs),
    )
    gradient = torch.randn_like(outputs[1])
    for output in outputs:
        output.backward(gradient.to(output.dtype))
    expected = [outputs[0], *(exact[name].grad for name in GRADIENTS)]
    found = [outputs[1], *(ours[name].grad for name in GRADIENTS)]
    rival = [outputs[2], *(theirs[name].grad for name in GRADIENTS)]
    for name, e, f, r in zip(("u", *GRADIENTS), expected, found, rival, strict=True):
        assert error(f, e) <= 1.5 * error(r, e), name


@FORMS
def test_graph_replay(one_launch: bool) -> None:
    a = arguments(4, 2048)
    with torch.no_grad():
        embed_hidden_projection(**a, eps=1e-6, one_launch=one_launch)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            output = embed_hidden_projection(**a, eps=1e-6, one_launch=one_launch)
        a["h"].mul_(-2.0)
        a["ids"].add_(1).remainder_(1000)
        graph.replay()
        assert torch.equal(output, embed_hidden_projection(**a, eps=1e-6, one_launch=one_launch))


def test_the_concatenation_is_not_kept() -> None:
    num_tokens, size = 8192, 4096
    a = arguments(num_tokens, size)
    embed_hidden_projection(**a, eps=1e-6)  # compiles, and the library takes its workspace
    before = torch.cuda.memory_allocated()
    output = embed_hidden_projection(**a, eps=1e-6)
    assert torch.cuda.memory_allocated() - before < 1.1 * output.nbytes
