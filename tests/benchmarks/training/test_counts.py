"""Counts of what torch is asked for: operators and the bytes of their results, not views."""

import torch

from vllm_mtp.benchmarks.training.counts import counted


def test_views_are_free_and_products_are_not() -> None:
    x = torch.ones(4, 8, requires_grad=True)
    with counted() as counts:
        x.detach().t()[:2]
    assert (counts.operators, counts.written_bytes) == (0, 0)
    with counted() as counts:
        y = x @ torch.ones(8, 2)
    assert (counts.operators, counts.written_bytes) == (2, 4 * (8 * 2 + 4 * 2))
    with counted() as counts:
        y.sum().backward()
    assert counts.operators >= 3
