"""By what the draft model computes its entry, and that torch.compile keeps the kernel as one node of one graph.

Catches: a choice that is ignored or misspelt without a word, a kernel that was asked for and cannot run, a graph break
at the kernel, a graph of the other choice in vLLM's cache of compiled graphs.
"""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytestmark = pytest.mark.vllm
SIZE, VOCAB_SIZE = 16, 64


@pytest.fixture(autouse=True)
def config(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """vLLM's layers ask for it, and for their tensor-parallel rank, when they are built."""
    pytest.importorskip("vllm", reason="needs vLLM")
    from vllm.config import VllmConfig, set_current_vllm_config
    from vllm.distributed import parallel_state

    monkeypatch.setattr(parallel_state, "_TP", SimpleNamespace(rank_in_group=0, world_size=1))
    with set_current_vllm_config(VllmConfig()):
        yield


def layer(method: Any) -> nn.Module:
    found = nn.Module()
    found.quant_method = method
    return found


@pytest.mark.parametrize(
    ("choice", "on_gpu", "expected"),
    [
        ("", False, (False, False)),
        ("layers", False, (False, False)),
        ("", True, (True, False)),
        ("layers", True, (False, False)),
        ("kernel", True, (True, True)),
    ],
)
def test_choice(choice: str, on_gpu: bool, expected: tuple[bool, bool], monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.model_executor.layers.linear import UnquantizedLinearMethod

    from vllm_mtp.serving import projection

    monkeypatch.setenv(projection.CHOICE, choice)
    monkeypatch.setattr(projection, "has_kernels", lambda: on_gpu)
    assert projection.choose(layer(UnquantizedLinearMethod())) == expected


@pytest.mark.parametrize(
    ("choice", "on_gpu", "message"),
    [("kernels", True, "expected kernel or layers, or nothing, got 'kernels'"), ("kernel", False, "expected a GPU")],
)
def test_what_cannot_be(choice: str, on_gpu: bool, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm_mtp.serving import projection

    monkeypatch.setenv(projection.CHOICE, choice)
    monkeypatch.setattr(projection, "has_kernels", lambda: on_gpu)
    with pytest.raises(ValueError, match=f"{projection.CHOICE}.*{message}"):
        projection.choose(layer(object()))


def test_vllm_keeps_compiled_graphs_of_each_choice_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm import envs
    from vllm.model_executor.layers.linear import UnquantizedLinearMethod

    from vllm_mtp.serving import projection

    monkeypatch.setattr(projection, "has_kernels", lambda: True)
    monkeypatch.setattr(envs, "environment_variables", dict(envs.environment_variables))
    factors = []
    for choice in ("kernel", "layers"):
        monkeypatch.setenv(projection.CHOICE, choice)
        projection.choose(layer(UnquantizedLinearMethod()))
        factors.append(envs.compile_factors())
    assert {name for name in factors[0] if factors[0][name] != factors[1][name]} == {projection.CHOICE}


def predictor(by_kernel: tuple[bool, bool]) -> Any:
    """An `MTPPredictor` with nothing but its entry."""
    from vllm.model_executor.layers.layernorm import RMSNorm
    from vllm.model_executor.layers.linear import ReplicatedLinear
    from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding

    from vllm_mtp.serving.draft_model import MTPPredictor
    from vllm_mtp.serving.projection import ByKernel

    found = MTPPredictor.__new__(MTPPredictor)
    nn.Module.__init__(found)
    found.enorm, found.hnorm = RMSNorm(SIZE), RMSNorm(SIZE)
    found.eh_proj = ReplicatedLinear(2 * SIZE, SIZE, bias=False, disable_tp=True)
    found.eh_proj.cpu_linear = torch.nn.functional.linear  # once loaded, vLLM puts its packed product there
    found.embed_tokens = VocabParallelEmbedding(VOCAB_SIZE, SIZE, disable_tp=True, reduce_results=False)
    generator = torch.Generator().manual_seed(0)
    for parameter in found.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    found.by_kernel = ByKernel(*by_kernel)
    return found


class Nodes:
    """A backend that remembers what it is given."""

    def __init__(self) -> None:
        self.graphs: list[list[Any]] = []

    def __call__(self, graph: torch.fx.GraphModule, example: list[Any]) -> Any:
        self.graphs.append([node.target for node in graph.graph.nodes if node.op.startswith("call")])
        return graph.forward


@pytest.mark.parametrize("embeddings", [False, True], ids=["token ids", "embeddings"])
def test_the_kernel_is_one_node_of_one_graph(embeddings: bool) -> None:
    """With a number of tokens that may change, as vLLM compiles; it gives what vLLM's layers give."""
    nodes = {}
    outputs: dict[str, list[Tensor]] = {}
    with torch.inference_mode():
        for name, by_kernel in {"kernel": (True, True), "layers": (True, False)}.items():
            torch.compiler.reset()
            entry, backend = predictor(by_kernel), Nodes()
            compiled = torch.compile(entry.fuse, backend=backend, fullgraph=True, dynamic=True)
            outputs[name] = []
            for num_tokens in (3, 5, 7):
                ids = torch.arange(num_tokens) * 5
                hidden_TD = torch.randn(num_tokens, SIZE, generator=torch.Generator().manual_seed(num_tokens))
                given = entry.embed_input_ids(ids) if embeddings else None
                outputs[name].append(compiled(ids, hidden_TD, given))
            assert len(backend.graphs) == 1
            nodes[name] = backend.graphs[0]
    operator = torch.ops.vllm_mtp.embed_hidden_projection.default
    assert nodes["kernel"].count(operator) == 1
    assert operator not in nodes["layers"]
    for ours, theirs in zip(outputs["kernel"], outputs["layers"], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
