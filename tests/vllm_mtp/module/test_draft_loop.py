"""The cached draft loop, against a loop without any cache that runs over the whole history at each draft token.

Catches: drafted keys that stay in the cache after verification, the target's hidden state where the module's own
belongs, the wrong token beside a hidden state, a position that is off by one, logits without the target's soft cap,
ids of a draft vocabulary where the target's belong.
"""

# Shapes: T tokens, K draft tokens, D hidden size, V vocabulary, J draft vocabulary.

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.drafts import d2t_of
from vllm_mtp.contract.config import MTPConfig
from vllm_mtp.module.draft_loop import DraftLoop
from vllm_mtp.module.mtp import KVCache, MTPModule
from vllm_mtp.module.shared_head import LogitsTransform, SharedHead

VOCAB_SIZE, HIDDEN_SIZE = 40, 16


def random_module(**more: Any) -> MTPModule:
    torch.manual_seed(0)
    fields: dict[str, Any] = {
        "hidden_size": HIDDEN_SIZE,
        "intermediate_size": 24,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 6,
        "vocab_size": VOCAB_SIZE,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_type": "default", "rope_theta": 100.0},
    }
    module = MTPModule(MTPConfig.from_dict(fields | more))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return module.requires_grad_(False)


@pytest.fixture
def module() -> MTPModule:
    return random_module()


@pytest.fixture
def head() -> SharedHead:
    generator = torch.Generator().manual_seed(1)
    embedding_VD, head_VD = (torch.randn(VOCAB_SIZE, HIDDEN_SIZE, generator=generator) for _ in range(2))
    return SharedHead(embedding_VD=embedding_VD, head_VD=head_VD, transform=LogitsTransform(scale=0.7, soft_cap=4.0))


def draft_without_cache(
    module: MTPModule, head: SharedHead, hidden_TD: Tensor, ids_T: Tensor, num_tokens: int
) -> tuple[list[int], Tensor]:
    """K greedy draft tokens after the whole text ids_T (one longer than hidden_TD), computed anew each time.

    A draft vocabulary is a mask over the logits.
    """
    drafts: list[int] = []
    logits = []
    inputs_TD = hidden_TD
    for _ in range(num_tokens):
        next_ids_T = torch.tensor([*ids_T[1:].tolist(), *drafts])
        cache = KVCache(module.config, torch.float32, "cpu")
        states_TD = module(head.embedding_VD[next_ids_T], inputs_TD, cache)
        raw_V = head.head_VD @ states_TD[-1]
        logits.append(0.7 * 4.0 * torch.tanh(raw_V / 4.0))
        if module.draft_ids is not None:
            masked = [i for i in range(VOCAB_SIZE) if i not in module.draft_ids.tolist()]
            logits[-1][masked] = float("-inf")
        drafts.append(int(logits[-1].argmax()))
        inputs_TD = torch.cat((inputs_TD, states_TD[-1:]))
    return drafts, torch.stack(logits)


@pytest.mark.parametrize("draft_ids", [None, [0, 3, 7, 8, 21, 22, 39]])
def test_rounds_against_a_loop_without_cache(head: SharedHead, draft_ids: list[int] | None) -> None:
    module = random_module(draft_vocab_size=draft_ids and len(draft_ids))
    if draft_ids is not None:
        module.load_state_dict(module.state_dict() | {"d2t": d2t_of(torch.tensor(draft_ids))})
    torch.manual_seed(2)
    ids_T, hidden_TD = torch.randint(VOCAB_SIZE, (20,)), torch.randn(20, HIDDEN_SIZE)
    loop = DraftLoop(module, head)
    seen = 0
    # Verified positions of each round (the prompt, then 1 + what was accepted), and K.
    for num_new, num_speculative_tokens in ((6, 3), (1, 5), (4, 1), (2, 2), (3, 4)):
        stop = seen + num_new
        draft = loop.propose(hidden_TD[seen:stop], ids_T[seen + 1 : stop + 1], num_speculative_tokens)
        expected, expected_KV = draft_without_cache(
            module, head, hidden_TD[:stop], ids_T[: stop + 1], num_speculative_tokens
        )
        assert draft.tokens == expected
        torch.testing.assert_close(draft.logits_KV, expected_KV, rtol=1e-4, atol=1e-4)
        assert draft_ids is None or set(draft.tokens) <= set(draft_ids)
        assert draft.sources == ["module"] * num_speculative_tokens
        seen = stop
        assert len(loop.cache) == seen


def test_drafting_leaves_the_cache_as_if_no_draft_had_been_made(module: MTPModule, head: SharedHead) -> None:
    torch.manual_seed(3)
    ids_T, hidden_TD = torch.randint(VOCAB_SIZE, (9,)), torch.randn(8, HIDDEN_SIZE)
    many, one = DraftLoop(module, head), DraftLoop(module, head)
    for part in (slice(0, 5), slice(5, 8)):
        many.propose(hidden_TD[part], ids_T[1:][part], 5)
        one.propose(hidden_TD[part], ids_T[1:][part], 1)
    assert torch.equal(many.cache.keys_SGC, one.cache.keys_SGC)
    assert torch.equal(many.cache.values_SGC, one.cache.values_SGC)


def test_the_chosen_tokens_are_fed_back(module: MTPModule, head: SharedHead) -> None:
    torch.manual_seed(4)
    ids_T, hidden_TD = torch.randint(VOCAB_SIZE, (5,)), torch.randn(5, HIDDEN_SIZE)
    greedy = DraftLoop(module, head).propose(hidden_TD, ids_T, 3)
    least = DraftLoop(module, head).propose(hidden_TD, ids_T, 3, choose=lambda logits: int(logits.argmin()))
    assert least.tokens == least.logits_KV.argmin(-1).tolist()
    assert greedy.tokens == greedy.logits_KV.argmax(-1).tolist()
    assert torch.equal(greedy.logits_KV[0], least.logits_KV[0])
    assert not torch.allclose(greedy.logits_KV[1], least.logits_KV[1])


def test_lookup_drafts_what_the_text_repeats(head: SharedHead) -> None:
    """Catches a draft that does not go on copying, a module that is not asked, a copied token that is not certain."""
    lookup = {"min_match": 2, "max_match": 4, "module_steps": 2}
    module, alone = random_module(lookup=lookup), random_module()
    torch.manual_seed(2)
    ids_T, hidden_TD = torch.tensor([9, 1, 2, 3, 4, 5, 1, 2]), torch.randn(7, HIDDEN_SIZE)
    copied = DraftLoop(module, head).propose(hidden_TD, ids_T[1:], 5)
    assert copied.tokens == [3, 4, 5, 1, 2]
    assert copied.sources == ["lookup"] * 5
    assert copied.logits_KV.softmax(-1).max(-1).values.tolist() == [1.0] * 5

    # New text: the module, twice as far as it computes; then what followed its last token, or that token again.
    ids_T = torch.arange(8)
    mixed, plain = (DraftLoop(one, head).propose(hidden_TD, ids_T[1:], 5) for one in (module, alone))
    assert mixed.tokens[:2] == plain.tokens[:2]
    assert mixed.sources[:2] == ["module"] * 2
    torch.testing.assert_close(mixed.logits_KV[:2], plain.logits_KV[:2])
    text = [*range(1, 8), *mixed.tokens[:2]]
    for token, source in zip(mixed.tokens[2:], mixed.sources[2:], strict=True):
        places = [j for j in range(len(text) - 1) if text[j] == text[-1]]
        assert token == (text[places[-1] + 1] if places else text[-1])
        assert source in ("guess", "lookup")
        text.append(token)


def test_the_first_token_is_not_looked_at(head: SharedHead) -> None:
    """It is in no slot of the drafter's KV cache: vLLM's drafter cannot know it."""
    module = random_module(lookup={"min_match": 1, "max_match": 4, "module_steps": 5})
    torch.manual_seed(2)
    draft = DraftLoop(module, head).propose(torch.randn(3, HIDDEN_SIZE), torch.tensor([2, 3, 1]), 1)
    assert draft.sources == ["module"]
