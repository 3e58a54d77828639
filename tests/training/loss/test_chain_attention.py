"""Attention without a mask is that with one: what it gives, and every gradient.

Catches: a softmax of two parts that are joined by the wrong log-sum-exp, a backward that knows one part alone, query
heads summed into another key-value head.
"""

# Shapes: B sequences, T positions, A query heads, G key-value heads, C head size.

import pytest
import torch
from torch import Tensor

from vllm_mtp.training.loss import chain_attention as file
from vllm_mtp.training.loss.chain_attention import Keys, chain_attention, flash_attention, masked_attention


def random_tensors(num_own: int, num_kv_heads: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Queries, keys and values of the context by head, then of each further step; scores far from one another."""
    torch.manual_seed(0)
    heads = [4, 4, 4] + [num_kv_heads] * 2 * num_own
    return [(2 * torch.randn(2, 9, count, 6)).to(dtype).requires_grad_() for count in heads]


def split(tensors: list[Tensor]) -> tuple[Tensor, Keys, list[Keys]]:
    q_BTAC, k_BTAC, v_BTAC, *own = tensors
    return q_BTAC, Keys(k_BTAC, v_BTAC), [Keys(*pair) for pair in zip(own[::2], own[1::2], strict=True)]


@pytest.mark.parametrize("num_own", [0, 1, 2, 4])
@pytest.mark.parametrize("num_kv_heads", [1, 2, 4])
def test_it_is_attention_by_a_mask(num_own: int, num_kv_heads: int) -> None:
    tensors = random_tensors(num_own, num_kv_heads)
    found, expected = (attention(*split(tensors)) for attention in (flash_attention, masked_attention))
    torch.testing.assert_close(found, expected)
    weights = torch.randn_like(expected)
    gradients = (torch.autograd.grad((value * weights).sum(), tensors) for value in (found, expected))
    for one, other in zip(*gradients, strict=True):
        assert other.abs().max() > 0
        torch.testing.assert_close(one, other)


def test_gradients_by_differences() -> None:
    tensors = random_tensors(2, 2)
    assert torch.autograd.gradcheck(lambda *given: flash_attention(*split(list(given))), tensors)


def test_bfloat16_is_as_exact_as_by_a_mask() -> None:
    exact = masked_attention(*split(random_tensors(2, 2)))
    errors = [
        (attention(*split(random_tensors(2, 2, torch.bfloat16))) - exact).abs().mean()
        for attention in (flash_attention, masked_attention)
    ]
    assert errors[0] < 1.1 * errors[1]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("head_dim", [64, 128])
def test_a_gpu_has_the_operators(dtype: torch.dtype, head_dim: int) -> None:
    assert file._is_supported(torch.device("cuda"), dtype, head_dim)


def test_where_torch_lacks_the_operators_a_mask_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    q_BTAC, context, own = split(random_tensors(2, 2))
    assert file._is_supported(q_BTAC.device, q_BTAC.dtype, 6)
    expected = chain_attention(q_BTAC, context, own)

    def refused(*_: Tensor) -> None:
        raise RuntimeError("no such operator")

    others = (refused, lambda *_: (1, 2, 3, 4), lambda q_BATC, *_: (q_BATC, q_BATC.sum(-1), ()))
    for other in others[:2]:
        monkeypatch.setattr(file, "_flash", other)
        file._does_what_a_mask_does.cache_clear()
        torch.testing.assert_close(chain_attention(q_BTAC, context, own), expected)
    monkeypatch.setattr(file, "_flash", others[2])
    file._does_what_a_mask_does.cache_clear()
    torch.testing.assert_close(chain_attention(q_BTAC, context, own), expected)
    monkeypatch.undo()
    file._does_what_a_mask_does.cache_clear()
