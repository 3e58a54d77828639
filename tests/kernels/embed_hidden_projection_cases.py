"""What `embed_hidden_projection` must give, values and gradients, written out anew in float64 with autograd."""

# Shapes: T tokens, V vocabulary, D hidden size, N outputs, C = 2D.

from typing import Any, NamedTuple

import torch
from torch import Tensor

from tests.kernels.compare import assert_close, random
from tests.kernels.draft_head_cases import poisoned
from vllm_mtp.kernels.ops import embed_hidden_projection

EPS = 1e-3  # large enough to be seen where it is left out


class Case(NamedTuple):
    """Arguments by name; hidden states, weight and norms want gradients."""

    arguments: dict[str, Any]
    gradient_TN: Tensor


def case(
    sizes: tuple[int, int, int] = (17, 72, 40),
    dtype: torch.dtype = torch.float32,
    *,
    ids: bool = True,
    norms: bool = True,
    positions: bool = False,
    **options: Any,
) -> Case:
    """Random rows of very different lengths, a token twice, memory around the tensors NaN.

    Args:
        sizes: tokens, hidden size, outputs.
        dtype: of everything.
        ids: a table and ids, or rows already gathered.
        norms: whether there are norm weights.
        positions: whether position 0 is masked.
        **options: `order`, `unit_offset`, `one_launch`.
    """
    num_tokens, size, num_outputs = sizes
    rows = random(50 if ids else num_tokens, size) * random(50 if ids else num_tokens, 1, seed=1).exp()
    h = random(num_tokens, size, seed=2) * random(num_tokens, 1, seed=3).exp()
    w = random(num_outputs, 2 * size, seed=4) / size**0.5
    arguments: dict[str, Any] = {
        "ids": (torch.arange(num_tokens) * 7) % 50 if ids else None,
        "emb": poisoned(rows.to(dtype)),
        "h": poisoned(h.to(dtype)).requires_grad_(),
        "w": poisoned(w.to(dtype)).requires_grad_(),
        "eps": EPS,
        **options,
    }
    if norms:
        arguments["g_e"] = random(size, dtype=dtype, seed=5).requires_grad_()
        arguments["g_h"] = random(size, dtype=dtype, seed=6).requires_grad_()
    if positions:
        arguments["positions"] = torch.arange(num_tokens) % 3
    return Case(arguments, random(num_tokens, num_outputs, dtype=dtype, seed=7))


def expected(case: Case) -> tuple[Tensor, dict[str, Tensor]]:
    """u, and the gradients by argument."""
    a = {
        name: value.detach().double().requires_grad_(value.requires_grad)
        if isinstance(value, Tensor) and value.is_floating_point()
        else value
        for name, value in case.arguments.items()
    }

    def normed(x_TD: Tensor, g: str) -> Tensor:
        x_TD = x_TD / (x_TD.square().mean(-1, keepdim=True) + EPS).sqrt()
        return x_TD * (a[g] + (1 if a.get("unit_offset") else 0)) if g in a else x_TD

    rows_TD = a["emb"] if a["ids"] is None else a["emb"][a["ids"]]
    if "positions" in a:
        rows_TD = rows_TD * (a["positions"] != 0)[:, None]
    halves = [normed(rows_TD, "g_e"), normed(a["h"], "g_h")]
    if a.get("order") == "hidden_embed":
        halves.reverse()
    output_TN = torch.cat(halves, -1) @ a["w"].T
    output_TN.backward(case.gradient_TN.double())
    return output_TN.detach(), {name: a[name].grad for name in ("h", "w", "g_e", "g_h") if name in a}


def check(case: Case, dtype: torch.dtype) -> None:
    """Value and gradients of an operator against the expectation."""
    output_TN = embed_hidden_projection(**case.arguments)
    output_TN.backward(case.gradient_TN)
    expected_TN, gradients = expected(case)
    assert_close(output_TN.detach(), expected_TN, dtype)
    for name, gradient in gradients.items():
        assert case.arguments[name].grad.dtype == dtype, name
        assert_close(case.arguments[name].grad, gradient, dtype)
