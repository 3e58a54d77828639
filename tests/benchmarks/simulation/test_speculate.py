"""Speculative decoding in plain PyTorch: lossless, greedy and sampled."""

from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from vllm_mtp.benchmarks.harness.acceptance import Acceptance
from vllm_mtp.benchmarks.harness.figures import figures
from vllm_mtp.benchmarks.simulation.sampler import Sampler
from vllm_mtp.benchmarks.simulation.simulate import sources_of
from vllm_mtp.benchmarks.simulation.speculate import generate
from vllm_mtp.contract.config import MTPConfig
from vllm_mtp.module.draft_loop import Draft, DraftLoop
from vllm_mtp.module.mtp import MTPModule
from vllm_mtp.module.shared_head import SharedHead
from vllm_mtp.training.frozen.target import FrozenTarget

VOCAB_SIZE = 24


SHAPE = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,
}


@pytest.fixture(scope="module")
def target() -> FrozenTarget:
    torch.manual_seed(0)
    return frozen("tiny", LlamaForCausalLM(LlamaConfig(**SHAPE)))


@pytest.fixture(scope="module")
def sliding_target() -> FrozenTarget:
    """Attention over the last eight tokens alone."""
    torch.manual_seed(0)
    return frozen("sliding", MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=8)))


def frozen(name: str, model: Any) -> FrozenTarget:
    model = model.eval().requires_grad_(False)
    head = SharedHead(embedding_VD=model.model.embed_tokens.weight, head_VD=model.lm_head.weight)
    return FrozenTarget(
        name=name, model=model, tokenizer=None, head=head, device=torch.device("cpu"), dtype=torch.float32
    )


def random_module(draft_vocab_size: int | None = None, lookup: dict[str, int] | None = None) -> MTPModule:
    torch.manual_seed(1)
    config = MTPConfig(
        hidden_size=32,
        intermediate_size=64,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        vocab_size=VOCAB_SIZE,
        draft_vocab_size=draft_vocab_size,
        lookup=lookup,
        max_position_embeddings=128,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    )
    return MTPModule(config)


@pytest.fixture(scope="module")
def module() -> MTPModule:
    return random_module()


LOOKUP = {"min_match": 2, "max_match": 4, "module_steps": 2}


@pytest.mark.parametrize(
    ("k", "draft_vocab_size", "lookup"),
    [(1, None, None), (3, None, None), (5, None, None), (3, 10, None), (1, None, LOOKUP), (5, 10, LOOKUP)],
)
def test_greedy_output_is_the_targets(
    target: FrozenTarget, k: int, draft_vocab_size: int | None, lookup: dict[str, int] | None
) -> None:
    """Catches a cache that keeps rejected tokens: one wrong position changes what follows."""
    module = random_module(draft_vocab_size, lookup)
    prompt_ids = torch.arange(7) % VOCAB_SIZE
    expected = target.model.generate(
        prompt_ids[None], attention_mask=torch.ones(1, 7), do_sample=False, max_new_tokens=40, eos_token_id=None
    )[0, 7:].tolist()
    run = generate(target, module, prompt_ids, num_speculative_tokens=k, max_tokens=40, sampler=Sampler(0.0, 0))
    assert run.token_ids == expected
    counts = run.acceptance
    assert counts.num_drafts + counts.num_accepted_tokens + 1 - run.num_discarded_tokens == 40


def test_greedy_output_is_that_of_a_target_with_sliding_windows(
    sliding_target: FrozenTarget, module: MTPModule
) -> None:
    """Catches a cache of the window's length, which cannot take back a rejected token."""
    prompt_ids = torch.arange(20) % VOCAB_SIZE
    expected = sliding_target.model.generate(
        prompt_ids[None], attention_mask=torch.ones(1, 20), do_sample=False, max_new_tokens=40, eos_token_id=None
    )[0, 20:].tolist()
    assert len(set(expected)) > 3
    for k in (0, 3):
        found = generate(
            sliding_target,
            module if k else None,
            prompt_ids,
            num_speculative_tokens=k,
            max_tokens=40,
            sampler=Sampler(0.0, 0),
        )
        assert found.token_ids == expected


def test_a_drafter_that_knows_the_target_is_always_accepted(
    target: FrozenTarget, module: MTPModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bookkeeping of accepted tokens: drafts that are right give K + 1 tokens a round, and no other output."""
    prompt_ids = torch.arange(5)
    expected = generate(
        target, None, prompt_ids, num_speculative_tokens=0, max_tokens=21, sampler=Sampler(0.0, 0)
    ).token_ids
    position = 1

    def propose(self: DraftLoop, hidden_TD: torch.Tensor, next_ids_T: torch.Tensor, k: int, choose: object) -> Draft:
        nonlocal position
        assert next_ids_T[-1] == expected[position - 1]
        drafts = expected[position : position + k]
        position += k + 1
        return Draft(tokens=drafts, logits_KV=torch.zeros(k, VOCAB_SIZE), sources=["module", *["lookup"] * (k - 1)])

    monkeypatch.setattr(DraftLoop, "propose", propose)
    run = generate(target, module, prompt_ids, num_speculative_tokens=3, max_tokens=21, sampler=Sampler(0.0, 0))
    assert run.token_ids == expected
    assert sources_of([run]) == {
        "share_of_drafts_matched": 0.0,
        "drafted_by_source": {"module": 5, "lookup": 10},
        "accepted_by_source": {"module": 5, "lookup": 10},
    }
    assert run.acceptance == Acceptance(num_drafts=5, num_draft_tokens=15, num_accepted_tokens_per_position=(5, 5, 5))


@pytest.mark.parametrize("ends_by", ["end token", "max_tokens"])
def test_a_round_gives_what_came_out_of_it(
    target: FrozenTarget, module: MTPModule, monkeypatch: pytest.MonkeyPatch, ends_by: str
) -> None:
    """Catches tokens beyond an output's end counted as if they had come out: 8 a round of answers of 5 tokens."""
    prompt_ids = torch.arange(5)
    arguments: dict[str, Any] = {"sampler": Sampler(0.0, 0)}
    whole = generate(target, None, prompt_ids, num_speculative_tokens=0, max_tokens=40, **arguments).token_ids
    last = next(index for index in range(4, 30) if whole.index(whole[index]) == index)
    ends: dict[str, Any] = {"end_ids": [whole[last]], "max_tokens": 40}
    if ends_by == "max_tokens":
        ends = {"max_tokens": last + 1}
    position = 1

    def propose(self: DraftLoop, hidden_TD: torch.Tensor, next_ids_T: torch.Tensor, k: int, choose: object) -> Draft:
        nonlocal position
        drafts = whole[position : position + k]
        position += k + 1
        return Draft(tokens=list(drafts), logits_KV=torch.zeros(k, VOCAB_SIZE), sources=["module"] * k)

    monkeypatch.setattr(DraftLoop, "propose", propose)
    run = generate(target, module, prompt_ids, num_speculative_tokens=7, **arguments, **ends)
    assert run.token_ids == whole[: last + 1]
    num_rounds = -(-last // 8)
    found = figures([run], max_tokens=40)
    assert found.acceptance_length == found.tokens_per_forward == round(last / num_rounds, 4)
    assert (found.acceptance_rate, found.num_discarded_tokens) == (1.0, 8 * num_rounds - last), "rates are vLLM's"


def test_an_end_token_ends_the_output_whatever_is_drafted(target: FrozenTarget, module: MTPModule) -> None:
    """Catches an answer that goes on after its end of turn, or ends only where a round does."""
    arguments: dict[str, Any] = {"max_tokens": 40, "sampler": Sampler(0.0, 0)}
    whole = generate(target, None, torch.arange(7), num_speculative_tokens=0, **arguments).token_ids
    for end in set(whole):
        for k in (0, 3):
            found = generate(
                target,
                module if k else None,
                torch.arange(7),
                num_speculative_tokens=k,
                end_ids=[end],
                **arguments,
            )
            assert found.token_ids == whole[: whole.index(end) + 1]
