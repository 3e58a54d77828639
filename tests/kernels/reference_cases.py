"""A call of every function of ops.py, and whether reference.py answers the same: what a newcomer would try first."""

from collections.abc import Callable
from inspect import isclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from tests.kernels.compare import assert_close, random
from vllm_mtp.kernels import ops, reference

FUNCTIONS = sorted(name for name in ops.__all__ if not isclass(getattr(ops, name)))


def _teacher(functions: Any) -> Any:
    return functions.mean_embedding(random(5, 24, seed=1), random(37, 24, seed=2), scale=0.8)


# By name, calls of `functions`, which is ops or reference.
CALLS: dict[str, Callable[[Any], Any]] = {
    "combine_draft_parts": lambda functions: functions.combine_draft_parts(
        ops.DraftPart(torch.tensor([[3, 4], [9, 8]]), torch.tensor([[1.0, 2.0], [1.0, 3.0]]))
    ),
    "draft_head": lambda functions: functions.draft_head(
        random(5, 24), ops.HeadRows(random(37, 24, seed=2), d2t_V=torch.arange(37))
    ),
    "draft_head_part": lambda functions: functions.draft_head_part(
        random(5, 24), ops.HeadRows(random(37, 24, seed=2), first_id=100)
    ),
    "embed_hidden_projection": lambda functions: functions.embed_hidden_projection(
        torch.arange(5), random(9, 24), random(5, 24, seed=1), random(6, 48), random(24), random(24), eps=1e-6
    ),
    "linear_kl": lambda functions: [
        functions.linear_kl(random(2, 5, 24), teacher, random(37, 24, seed=2), scale=0.8, metrics=True)
        for teacher in (random(5, 24, seed=1), _teacher(functions))
    ],
    "lookup_tokens": lambda functions: functions.lookup_tokens(
        torch.tensor([5, 6, 7, 5, 6, -1], dtype=torch.int32),
        torch.tensor([[0, 1], [0, 9]], dtype=torch.int32),
        torch.tensor([4, 1]),
        block_size=3,
        min_match=2,
        max_match=4,
    ),
    "mean_embedding": _teacher,
    "quantize_head": lambda functions: functions.quantize_head(random(5, 24), torch.int8),
    "warm_up_draft_head": lambda functions: functions.warm_up_draft_head(ops.HeadRows(random(37, 24)), torch.float32),
}


def check(name: str) -> None:
    """Both give tensors of the same shape and dtype, integers equal, numbers within rounding."""
    found, expected = (tree_leaves(CALLS[name](functions)) for functions in (ops, reference))
    assert len(found) == len(expected)
    for ours, plain in zip(found, expected, strict=True):
        assert isinstance(ours, Tensor) == isinstance(plain, Tensor)
        if not isinstance(ours, Tensor):
            assert ours is plain is None
            continue
        assert ours.dtype == plain.dtype
        if ours.is_floating_point():
            assert_close(ours, plain, torch.float32)
        else:
            assert torch.equal(ours, plain)
