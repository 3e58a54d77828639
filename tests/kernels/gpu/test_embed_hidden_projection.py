"""The entry of an MTP module on a GPU, at the sizes of real modules.

Catches: what the interpreter cannot show: real rounding, a launch that a CUDA graph does not repeat, a node that
torch.compile takes apart.
"""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.kernels.compare import error
from vllm_mtp.kernels.ops import embed_hidden_projection

pytestmark = pytest.mark.gpu
EPS = 1e-6


def arguments(num_tokens: int, size: int, dtype: torch.dtype = torch.bfloat16) -> dict[str, Any]:
    generator = torch.Generator("cuda").manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device="cuda", dtype=torch.bfloat16).to(dtype)

    return {
        "ids_T": torch.randint(1000, (num_tokens,), generator=generator, device="cuda"),
        "embedding": random(1000, size),
        "hidden_TD": random(num_tokens, size),
        "weight_NC": random(size, 2 * size),
        "embed_norm_D": random(size),
        "hidden_norm_D": random(size),
    }


def eager(
    ids_T: Tensor, embedding: Tensor, hidden_TD: Tensor, weight_NC: Tensor, embed_norm_D: Tensor, hidden_norm_D: Tensor
) -> Tensor:
    shape = hidden_TD.shape[-1:]
    halves = F.rms_norm(embedding[ids_T], shape, embed_norm_D, EPS), F.rms_norm(hidden_TD, shape, hidden_norm_D, EPS)
    return F.linear(torch.cat(halves, -1), weight_NC)


@pytest.mark.parametrize("num_tokens", [1, 16, 17, 64, 1000])
@pytest.mark.parametrize("size", [2048, 4096])
def test_as_exact_as_eager(num_tokens: int, size: int) -> None:
    """At most 1.5 times the error of eager bfloat16 against float64."""
    exact, given = arguments(num_tokens, size, torch.float64), arguments(num_tokens, size)
    expected = eager(**exact)
    assert error(embed_hidden_projection(**given, eps=EPS), expected) <= 1.5 * error(eager(**given), expected)


def test_graph_replay() -> None:
    a = arguments(4, 2048)
    embed_hidden_projection(**a, eps=EPS)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = embed_hidden_projection(**a, eps=EPS)
    a["hidden_TD"].mul_(-2.0)
    a["ids_T"].add_(1).remainder_(1000)
    graph.replay()
    assert torch.equal(output, embed_hidden_projection(**a, eps=EPS))


def test_one_node_of_a_compiled_graph() -> None:
    a = arguments(4, 2048)
    compiled = torch.compile(embed_hidden_projection, fullgraph=True)
    assert torch.equal(compiled(**a, eps=EPS), embed_hidden_projection(**a, eps=EPS))
