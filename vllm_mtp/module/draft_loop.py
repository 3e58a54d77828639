"""Drafting in plain PyTorch, one sequence at a time, exactly as vLLM's proposer feeds the module.

The oracle for the vLLM drafter (token for token) and the engine of `vllm-mtp eval`.
"""

# Shapes: T newly verified tokens, K draft tokens, D hidden size, V vocabulary, J draft vocabulary.

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from vllm_mtp.contract.lookup import NO_TOKEN, Lookup, find
from vllm_mtp.module.mtp import KVCache, MTPModule
from vllm_mtp.module.shared_head import SharedHead

SOURCES = ("module", "lookup", "guess")
"""Where a draft token comes from. A guess stands beyond the module's last step where no match is long enough."""


def greedy(logits_V: Tensor) -> int:
    return int(logits_V.argmax())


@dataclass(frozen=True, kw_only=True, slots=True)
class Draft:
    """K draft tokens of one round."""

    tokens: list[int]
    logits_KV: Tensor
    """What each was chosen from, float32: -inf outside a draft vocabulary and beside a copied token."""
    sources: list[str]
    """Where each token came from: one of SOURCES."""


class DraftLoop:
    """One sequence's drafter: its KV cache and its text hold verified positions only, between rounds."""

    def __init__(self, module: MTPModule, head: SharedHead) -> None:
        self.module = module
        self.head = head
        self.lookup = Lookup.of(module.config.lookup)
        self.text: list[int] = []
        """Every verified token but the sequence's first, which the module is never fed with."""
        self.draft_ids_J = module.draft_ids
        self.draft_head = head.cut(self.draft_ids_J)
        self.cache = KVCache(module.config, module.eh_proj.weight.dtype, module.eh_proj.weight.device)

    @torch.inference_mode()
    def propose(
        self,
        hidden_TD: Tensor,
        next_ids_T: Tensor,
        num_speculative_tokens: int,
        choose: Callable[[Tensor], int] = greedy,
    ) -> Draft:
        """One round: keys and values of the newly verified positions from the target's states, then K draft tokens.

        Args:
            hidden_TD: the target's post-norm hidden states h_t of the positions not yet in the cache, in order.
            next_ids_T: the token x_{t+1} after each of them; the last one was sampled in this round.
            num_speculative_tokens: K, at least 1.
            choose: picks a token id from float32 logits [V]; argmax by default.
        """
        state_TD = self.module(self.head.embed(next_ids_T), hidden_TD, self.cache)
        num_verified = len(self.cache)
        self.text += next_ids_T.tolist()
        drafts: list[int] = []
        chosen_from, sources = [], []
        for step in range(num_speculative_tokens):
            token, source = self._copied(step, drafts)
            if source == "module":
                if drafts:
                    last_id = next_ids_T.new_tensor([drafts[-1]])
                    state_TD = self.module(self.head.embed(last_id), state_TD[-1:], self.cache)
                logits_V = self._logits(state_TD[-1:])[0]
                token = choose(logits_V)
            else:
                logits_V = self._certain(token, next_ids_T.device)
            drafts.append(token)
            chosen_from.append(logits_V)
            sources.append(source)
        self.cache.truncate(num_verified)
        return Draft(tokens=drafts, logits_KV=torch.stack(chosen_from), sources=sources)

    def _copied(self, step: int, drafts: list[int]) -> tuple[int, str]:
        """The token at a position of the draft and where it is from; NO_TOKEN where the module is to draft it."""
        if self.lookup is None:
            return NO_TOKEN, "module"
        text = self.text + drafts
        token = find(text, self.lookup.least(step), self.lookup.max_match)
        if step < self.lookup.module_steps:
            return token, "module" if token == NO_TOKEN else "lookup"
        if token == NO_TOKEN:
            return text[-1], "guess"
        matched = find(text, self.lookup.min_match, self.lookup.max_match) != NO_TOKEN
        return token, "lookup" if matched else "guess"

    def _certain(self, token: int, device: torch.device) -> Tensor:
        """Logits by which a token's probability is one at every temperature, [V]."""
        logits_V = torch.full((len(self.head.head_VD),), float("-inf"), device=device)
        logits_V[token] = 0.0
        return logits_V

    def _logits(self, hidden_TD: Tensor) -> Tensor:
        """The drafter's logits at the target's width, [T, V], in float32."""
        logits_TJ = self.draft_head.logits(hidden_TD)
        if self.draft_ids_J is None:
            return logits_TJ
        logits_TV = logits_TJ.new_full((len(logits_TJ), len(self.head.head_VD)), float("-inf"))
        return logits_TV.index_copy_(1, self.draft_ids_J.to(logits_TV.device), logits_TJ)
