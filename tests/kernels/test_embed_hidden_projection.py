"""The entry of an MTP module as an operator of torch: its plain twin, opcheck, torch.compile, and what it refuses.

Catches: a twin that is wrong itself, a fake of other shapes, tensors that do not fit and are taken without a word.
"""

from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from tests.kernels.compare import assert_close
from tests.kernels.embed_hidden_projection_cases import case, check, expected
from vllm_mtp.kernels.ops import embed_hidden_projection


@pytest.mark.parametrize("ids", [True, False], ids=["table", "rows"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_plain_twin(dtype: torch.dtype, ids: bool) -> None:
    check(case(dtype=dtype, ids=ids), dtype)


@pytest.mark.parametrize("ids", [True, False], ids=["table", "rows"])
def test_opcheck(ids: bool) -> None:
    operator = torch.ops.vllm_mtp.embed_hidden_projection.default
    torch.library.opcheck(operator, tuple(case((5, 16, 8), ids=ids).values()))


@pytest.mark.parametrize("ids", [True, False], ids=["table", "rows"])
def test_one_graph_for_any_number_of_tokens(ids: bool) -> None:
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(embed_hidden_projection, backend=counter, fullgraph=True, dynamic=True)
    counts = set()
    for num_tokens in (5, 6, 9):
        arguments = case((num_tokens, 16, 8), ids=ids)
        assert_close(compiled(**arguments), expected(**arguments), torch.float32)
        counts.add(counter.frame_count)
    assert len(counts) == 1, "nothing was compiled after the first call"


IDS, ROWS, W, G = torch.zeros(2, dtype=torch.int64), torch.ones(2, 8), torch.ones(3, 16), torch.ones(8)
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"weight_NC": torch.ones(3, 8)}, r"Expected hidden \[T, D\] and weight \[N, 2D\], got \[2, 8\] and \[3, 8\]"),
    ({"embedding": torch.ones(5, 7)}, r"embedding: expected a table \[V, 8\], got \[5, 7\]"),
    ({"ids_T": None, "embedding": torch.ones(5, 8)}, r"embedding: expected \[2, 8\], a row for each token, got"),
    ({"hidden_TD": ROWS.bfloat16()}, "embedding, hidden, weight: expected one dtype, got"),
    ({"weight_NC": torch.ones(16, 3).T}, "weight: expected rows without gaps"),
    ({"ids_T": IDS.float()}, r"ids: expected integers \[2\]"),
    ({"embed_norm_D": torch.ones(7)}, r"embed_norm: expected \[8\], got \[7\]"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_what_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    given = {"ids_T": IDS, "embedding": ROWS, "hidden_TD": ROWS, "weight_NC": W, "embed_norm_D": G, "hidden_norm_D": G}
    with pytest.raises(ValueError, match=message):
        embed_hidden_projection(**given | change, eps=1e-6)


def test_no_tokens() -> None:
    given = case((4, 16, 8), ids=False)
    none = {name: given[name][:0] for name in ("embedding", "hidden_TD")}
    assert embed_hidden_projection(**given | none).shape == (0, 8)
