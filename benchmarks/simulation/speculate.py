"""Speculative decoding in plain PyTorch, exact and batch 1.

The target is run by transformers with a KV cache, the drafter by `DraftLoop`. Greedy verification accepts a draft token
that is the target's argmax; sampling is exact (sampler.py).
"""

# Shapes: P prompt tokens, K draft tokens, V vocabulary, D hidden size.

from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from vllm_mtp.benchmarks.harness.acceptance import Acceptance
from vllm_mtp.benchmarks.harness.record import Record, TokenIds
from vllm_mtp.benchmarks.simulation.sampler import Sampler
from vllm_mtp.contract.checkpoint import load_draft
from vllm_mtp.module.draft_loop import DraftLoop
from vllm_mtp.module.mtp import MTPModule
from vllm_mtp.training.frozen.target import FrozenTarget


@dataclass(frozen=True, kw_only=True, slots=True)
class Simulated(Record):
    """What one prompt gave."""

    sources: Sequence[Sequence[str]] = ()
    """Where each round's draft tokens came from (vllm_mtp.module.draft_loop.SOURCES)."""


def load_module(draft: Path) -> MTPModule:
    """A drafter in float32."""
    config, tensors = load_draft(draft)
    module = MTPModule(config)
    module.load_state_dict(tensors)
    return module.float()


def generate_all(
    target: FrozenTarget,
    module: MTPModule | None,
    prompts: Iterable[TokenIds],
    *,
    num_speculative_tokens: int,
    max_tokens: int,
    temperature: float,
    top_p: float = 1.0,
    top_k: int = 0,
    seed: int = 0,
    end_ids: Collection[int] = (),
) -> list[Simulated]:
    """`generate` for every prompt, numbered; the seed grows with the number."""
    return [
        replace(
            generate(
                target,
                module,
                torch.tensor(ids, device=target.device),
                num_speculative_tokens=num_speculative_tokens,
                max_tokens=max_tokens,
                sampler=Sampler(temperature, seed + number, top_p=top_p, top_k=top_k),
                end_ids=end_ids,
            ),
            number=number,
        )
        for number, ids in enumerate(prompts)
    ]


@torch.inference_mode()
def generate(
    target: FrozenTarget,
    module: MTPModule | None,
    prompt_ids_P: Tensor,
    *,
    num_speculative_tokens: int,
    max_tokens: int,
    sampler: Sampler,
    end_ids: Collection[int] = (),
) -> Simulated:
    """Generates max_tokens tokens, drafting num_speculative_tokens of them per round (0: none).

    The first of end_ids ends the output, and is its last token. The last round drafts and counts whole, as in vLLM;
    what it accepted beyond the output's end is `Record.num_discarded_tokens`.
    """
    from transformers import DynamicCache

    # Without the config, which would make caches of the sliding window's length: those forget what a rejected draft
    # token has pushed out. The window is in the attention mask all the same.
    cache = DynamicCache()

    def forward(ids: Tensor) -> tuple[Tensor, Tensor]:
        output = target.model.base_model(input_ids=ids[None], past_key_values=cache, use_cache=True)
        hidden_TD = output.last_hidden_state[0]
        return hidden_TD, target.head.logits(hidden_TD)

    loop = DraftLoop(module, target.head) if module is not None else None
    hidden_TD, logits_TV = forward(prompt_ids_P)
    generated = [sampler.choose(logits_TV[-1])]
    next_ids_T = torch.cat((prompt_ids_P[1:], prompt_ids_P.new_tensor(generated)))
    rounds, num_new = [], 1
    sources: list[list[str]] = []
    while len(generated) < max_tokens and not any(token in end_ids for token in generated[-num_new:]):
        num_drafts = num_speculative_tokens  # the last round drafts as many, as in vLLM
        drafts: list[int] = []
        draft_logits_KV = logits_TV[:0]
        sources.append([])
        if loop is not None and num_drafts > 0:
            draft = loop.propose(hidden_TD, next_ids_T, num_drafts, sampler.draft)
            drafts, draft_logits_KV, sources[-1] = draft.tokens, draft.logits_KV, draft.sources
        hidden_TD, logits_TV = forward(prompt_ids_P.new_tensor([generated[-1], *drafts]))
        new_ids: list[int] = []
        for token, target_logits_V, draft_logits_V in zip(drafts, logits_TV, draft_logits_KV, strict=False):
            if not sampler.accepts(token, target_logits_V, draft_logits_V):
                new_ids.append(sampler.recover(target_logits_V, draft_logits_V))
                break
            new_ids.append(token)
        else:
            new_ids.append(sampler.choose(logits_TV[len(drafts)]))
        rounds.append((len(drafts), len(new_ids) - 1))
        generated += new_ids
        num_new = len(new_ids)
        hidden_TD, next_ids_T = hidden_TD[: len(new_ids)], prompt_ids_P.new_tensor(new_ids)
        if num_rejected := len(drafts) + 1 - len(new_ids):
            cache.crop(-num_rejected)
    generated = generated[:max_tokens]
    end = next((index for index, token in enumerate(generated) if token in end_ids), max_tokens)
    counts = Acceptance.of_rounds(rounds, num_speculative_tokens)
    return Simulated(token_ids=generated[: end + 1], rounds=rounds, sources=sources, **asdict(counts))
