"""The entry of an MTP module as an operator of torch: its plain twin, opcheck, torch.compile, and what it refuses.

Catches: a twin or a backward that is wrong itself, a fake of other shapes, a gradient for the wrong argument.
"""

from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from tests.kernels.compare import assert_close
from tests.kernels.embed_hidden_projection_cases import case, check, expected
from vllm_mtp.kernels.ops import embed_hidden_projection

OPTIONS: list[dict[str, Any]] = [
    {},
    {"order": "hidden_embed"},
    {"unit_offset": True, "positions": True},
    {"norms": False, "ids": False},
    {"ids": False, "positions": True, "order": "hidden_embed"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_plain_twin(dtype: torch.dtype, options: dict[str, Any]) -> None:
    check(case(dtype=dtype, **options), dtype)


def test_only_what_is_wanted_gets_a_gradient() -> None:
    for wanted in ("h", "w", "g_e", "g_h"):
        a = case()
        for name in ("h", "w", "g_e", "g_h"):
            a.arguments[name].requires_grad_(name == wanted)
        embed_hidden_projection(**a.arguments).backward(a.gradient_TN)
        assert [name for name in ("h", "w", "g_e", "g_h") if a.arguments[name].grad is not None] == [wanted]
        assert_close(a.arguments[wanted].grad, expected(a)[1][wanted], torch.float32)


def test_nothing_but_arguments_is_kept_for_backward() -> None:
    a, kept = case().arguments, []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        embed_hidden_projection(**a)
    pointers = {value.data_ptr() for value in a.values() if isinstance(value, torch.Tensor)}
    assert kept
    assert {tensor.data_ptr() for tensor in kept} <= pointers


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_opcheck(options: dict[str, Any]) -> None:
    a = case((5, 16, 8), **options).arguments
    names = ("ids", "emb", "h", "w", "g_e", "g_h", "positions")
    arguments = (*(a.get(name) for name in names), 1e-3, a.get("order") != "hidden_embed", False, None)
    torch.library.opcheck(torch.ops.vllm_mtp.embed_hidden_projection.default, arguments)


def test_one_graph_forward_and_backward() -> None:
    eager, compiled = case(), case()
    step = torch.compile(embed_hidden_projection, fullgraph=True, backend="aot_eager")
    for run, a in ((embed_hidden_projection, eager), (step, compiled)):
        run(**a.arguments).backward(a.gradient_TN)
    for name in ("h", "w", "g_e", "g_h"):
        torch.testing.assert_close(compiled.arguments[name].grad, eager.arguments[name].grad)


def test_one_graph_for_any_number_of_tokens() -> None:
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(embed_hidden_projection, backend=counter, fullgraph=True, dynamic=True)
    counts = set()
    for num_tokens in (5, 6, 9):
        a = case((num_tokens, 16, 8), ids=False, positions=True)
        output_TN = compiled(**a.arguments)
        output_TN.backward(a.gradient_TN)
        assert_close(output_TN.detach(), expected(a)[0], torch.float32)
        counts.add(counter.frame_count)
    assert len(counts) == 1, "nothing was compiled after the first call"


IDS, ROWS, W, G = torch.zeros(2, dtype=torch.int64), torch.ones(2, 8), torch.ones(3, 16), torch.ones(8)
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"w": torch.ones(3, 8)}, r"Expected h \[T, D\] and w \[N, 2D\], got \[2, 8\] and \[3, 8\]"),
    ({"emb": torch.ones(5, 7)}, r"emb: expected a table \[V, 8\], got \[5, 7\]"),
    ({"ids": None, "emb": torch.ones(5, 8)}, r"emb: expected \[2, 8\], a row for each token, got \[5, 8\]"),
    ({"h": ROWS.bfloat16()}, "emb, h, w: expected one dtype, got"),
    ({"w": torch.ones(16, 3).T}, "w: expected rows without gaps"),
    ({"ids": IDS.float()}, r"ids: expected integers \[2\]"),
    ({"positions": IDS[:1]}, r"positions: expected integers \[2\], got torch.int64 \[1\]"),
    ({"g_e": torch.ones(7)}, r"g_e: expected \[8\], got \[7\]"),
    ({"order": "embed"}, "order: expected embed_hidden or hidden_embed, got 'embed'"),
    ({"emb": ROWS.clone().requires_grad_()}, "emb: expected the target's frozen embedding"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_what_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    arguments = {"ids": IDS, "emb": ROWS, "h": ROWS, "w": W, "g_e": G, "g_h": G, "eps": 1e-6} | change
    with pytest.raises(ValueError, match=message):
        embed_hidden_projection(**arguments)


def test_no_tokens() -> None:
    a = case((4, 16, 8), ids=False).arguments
    assert embed_hidden_projection(**a | {"emb": a["emb"][:0], "h": a["h"][:0].detach()}).shape == (0, 8)
