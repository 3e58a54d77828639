"""Training attends exactly as serving does: every position and draft step against the cached loop.

Catches: same-step states of other positions in the attention (plain causal masks), a chain that forgets its own earlier
steps or sees the step-1 keys of positions after it, a step at a wrong position, target states fed beyond step 1.
"""

# Shapes: B sequences, T positions, K draft steps, D hidden size.

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from vllm_mtp.contract.config import MTPConfig
from vllm_mtp.module.mtp import KVCache, MTPModule
from vllm_mtp.training.loss import chain_attention
from vllm_mtp.training.loss import unroll as unroll_file
from vllm_mtp.training.loss.unroll import unroll

NUM_SEQUENCES, NUM_POSITIONS, HIDDEN_SIZE = 2, 9, 16


def random_module(num_kv_heads: int) -> MTPModule:
    torch.manual_seed(0)
    fields: dict[str, Any] = {
        "hidden_size": HIDDEN_SIZE,
        "intermediate_size": 24,
        "num_attention_heads": 4,
        "num_key_value_heads": num_kv_heads,
        "head_dim": 6,
        "vocab_size": 40,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_type": "default", "rope_theta": 100.0},
        "qk_norm": True,
    }
    module = MTPModule(MTPConfig.from_dict(fields))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter) * (0.5 if parameter.ndim == 2 else 1.0))
    return module.double().requires_grad_(False)


def random_text(num_steps: int) -> tuple[Tensor, Tensor]:
    """Hidden states [B, T, D], and embeddings of the whole text [B, T + K + 1, D]."""
    torch.manual_seed(1)
    lengths = (NUM_POSITIONS, NUM_POSITIONS + num_steps + 1)
    hidden_BTD, text_BTD = (torch.randn(NUM_SEQUENCES, n, HIDDEN_SIZE, dtype=torch.float64) for n in lengths)
    return hidden_BTD, text_BTD


def unrolled(module: MTPModule, hidden_BTD: Tensor, text_BTD: Tensor, num_steps: int) -> Tensor:
    num_positions = hidden_BTD.size(1)
    return unroll(module, hidden_BTD, lambda step, _: text_BTD[:, step : step + num_positions], num_steps)


def served(module: MTPModule, hidden_TD: Tensor, text_TD: Tensor, num_steps: int) -> Tensor:
    """[K, T, D]: at every position t, verify 0..t from the target's states, then chain over the text's own tokens."""
    states = torch.empty(num_steps, *hidden_TD.shape, dtype=hidden_TD.dtype)
    cache = KVCache(module.config, torch.float64, "cpu")
    for t in range(len(hidden_TD)):
        state_1D = module(text_TD[t + 1 : t + 2], hidden_TD[t : t + 1], cache)
        states[0, t] = state_1D[0]
        for k in range(1, num_steps):
            state_1D = module(text_TD[t + k + 1 : t + k + 2], state_1D, cache)
            states[k, t] = state_1D[0]
        cache.truncate(t + 1)
    return states


@pytest.mark.parametrize("num_steps", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("num_kv_heads", [1, 2, 4])
def test_unrolled_steps_are_the_served_ones(num_steps: int, num_kv_heads: int) -> None:
    module = random_module(num_kv_heads)
    hidden_BTD, text_BTD = random_text(num_steps)
    found_KBTD = unrolled(module, hidden_BTD, text_BTD, num_steps)
    assert found_KBTD.shape == (num_steps, NUM_SEQUENCES, NUM_POSITIONS, HIDDEN_SIZE)
    for b in range(NUM_SEQUENCES):
        expected_KTD = served(module, hidden_BTD[b], text_BTD[b], num_steps)
        torch.testing.assert_close(found_KBTD[:, b], expected_KTD, rtol=1e-9, atol=1e-9)


def causal_over_same_step_states(mask: Tensor) -> Tensor:
    """The mask that most trainers have: at step k, the step-k states of all positions up to t."""
    num_positions = mask.size(0)
    wrong = torch.zeros_like(mask)
    wrong[:, -num_positions:] = mask[:, :num_positions]
    return wrong


def without_own_chain(mask: Tensor) -> Tensor:
    """Step-1 states of the context and the step's own state, nothing of the steps between."""
    num_positions = mask.size(0)
    wrong = mask.clone()
    wrong[:, num_positions:-num_positions] = False
    return wrong


def context_of_the_drafted_position(mask: Tensor) -> Tensor:
    """One position more of the step-1 states at the steps after the first: what serving has not verified yet."""
    num_positions = mask.size(0)
    wrong = mask.clone()
    if mask.size(1) > num_positions:
        wrong[:-1, :num_positions] = mask[1:, :num_positions]
    return wrong


@pytest.mark.parametrize(
    ("spoil", "first_wrong_step"),
    [(causal_over_same_step_states, 1), (without_own_chain, 2), (context_of_the_drafted_position, 1)],
)
def test_another_mask_is_not_what_is_served(
    spoil: Callable[[Tensor], Tensor], first_wrong_step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, num_steps = random_module(2), 3
    hidden_BTD, text_BTD = random_text(num_steps)
    expected_KTD = served(module, hidden_BTD[0], text_BTD[0], num_steps)
    mask_of = chain_attention.chain_mask
    monkeypatch.setattr(unroll_file, "chain_attention", chain_attention.masked_attention)
    torch.testing.assert_close(unrolled(module, hidden_BTD, text_BTD, num_steps)[:, 0], expected_KTD)
    # The first step's mask none of these changes.
    monkeypatch.setattr(chain_attention, "chain_mask", lambda *sizes: spoil(mask_of(*sizes)))
    found_KTD = unrolled(module, hidden_BTD, text_BTD, num_steps)[:, 0]
    torch.testing.assert_close(found_KTD[:first_wrong_step], expected_KTD[:first_wrong_step], rtol=1e-9, atol=1e-9)
    assert (found_KTD[first_wrong_step] - expected_KTD[first_wrong_step]).abs().max() > 0.05


def test_gradient_flows_through_the_chain() -> None:
    module = random_module(2).requires_grad_(True)
    hidden_BTD, text_BTD = random_text(3)
    hidden_BTD.requires_grad_()
    unrolled(module, hidden_BTD, text_BTD, 3)[2].sum().backward()
    assert hidden_BTD.grad is not None
    assert (hidden_BTD.grad.abs().amax(-1) > 0).all()
    assert all(parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in module.parameters())


@pytest.mark.parametrize("num_steps", [1, 3])
def test_a_step_computed_again_keeps_less_and_changes_nothing(num_steps: int) -> None:
    """In a new process too, whose first draft step asks what torch's attention can do."""
    found, kept = [], []
    for recompute in (False, True):
        chain_attention._does_what_a_mask_does.cache_clear()
        module = random_module(2).requires_grad_(True)
        hidden_BTD, text_BTD = random_text(num_steps)
        sizes: dict[int, int] = {}

        def pack(tensor: Tensor, sizes: dict[int, int] = sizes) -> Tensor:
            sizes[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        def embed(step: int, _: Tensor, text_BTD: Tensor = text_BTD) -> Tensor:
            return text_BTD[:, step : step + NUM_POSITIONS]

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            states_KBTD = unroll(module, hidden_BTD, embed, num_steps, recompute=recompute)
        kept.append(sum(sizes.values()))
        states_KBTD.square().sum().backward()
        found.append([states_KBTD, *(parameter.grad for parameter in module.parameters())])
    assert kept[1] < 0.5 * kept[0]
    for plain, again in zip(*found, strict=True):
        assert torch.equal(plain, again)
