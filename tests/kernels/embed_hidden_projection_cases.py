"""What `embed_hidden_projection` must give, written out anew in float64."""

# Shapes: T tokens, V vocabulary, D hidden size, N outputs, C = 2D.

from typing import Any

import torch
from torch import Tensor

from tests.kernels.compare import assert_close, random
from tests.kernels.draft_head_cases import poisoned
from vllm_mtp.kernels.ops import embed_hidden_projection

EPS = 1e-3  # large enough to be seen where it is left out


def case(
    sizes: tuple[int, int, int] = (17, 72, 40), dtype: torch.dtype = torch.float32, *, ids: bool = True
) -> dict[str, Any]:
    """Arguments by name: random rows of very different lengths, a token twice, memory around the tensors NaN.

    Args:
        sizes: tokens, hidden size, outputs.
        dtype: of everything.
        ids: a table and ids, or rows already gathered.
    """
    num_tokens, size, num_outputs = sizes
    num_rows = 50 if ids else num_tokens
    rows = random(num_rows, size) * random(num_rows, 1, seed=1).exp()
    hidden_TD = random(num_tokens, size, seed=2) * random(num_tokens, 1, seed=3).exp()
    weight_NC = random(num_outputs, 2 * size, seed=4) / size**0.5
    return {
        "ids_T": (torch.arange(num_tokens) * 7) % 50 if ids else None,
        "embedding": poisoned(rows.to(dtype)),
        "hidden_TD": poisoned(hidden_TD.to(dtype)),
        "weight_NC": poisoned(weight_NC.to(dtype)),
        "embed_norm_D": random(size, dtype=dtype, seed=5),
        "hidden_norm_D": random(size, dtype=dtype, seed=6),
        "eps": EPS,
    }


def expected(
    ids_T: Tensor | None,
    embedding: Tensor,
    hidden_TD: Tensor,
    weight_NC: Tensor,
    embed_norm_D: Tensor,
    hidden_norm_D: Tensor,
    eps: float,
) -> Tensor:
    """u, [T, N]."""

    def normed(x_TD: Tensor, g_D: Tensor) -> Tensor:
        x_TD = x_TD.double()
        return x_TD / (x_TD.square().mean(-1, keepdim=True) + eps).sqrt() * g_D.double()

    rows_TD = embedding if ids_T is None else embedding[ids_T]
    normed_TC = torch.cat([normed(rows_TD, embed_norm_D), normed(hidden_TD, hidden_norm_D)], -1)
    return normed_TC @ weight_NC.double().T


def check(arguments: dict[str, Any], dtype: torch.dtype) -> None:
    """The operator against the expectation."""
    output_TN = embed_hidden_projection(**arguments)
    assert output_TN.dtype == dtype
    assert_close(output_TN, expected(**arguments), dtype)
