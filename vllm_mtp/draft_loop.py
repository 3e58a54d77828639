"""Drafting in plain PyTorch, one sequence at a time, exactly as vLLM's proposer feeds the module.

The oracle for the vLLM drafter (token for token) and the engine of `vllm-mtp eval`.
"""

# Shapes: T newly verified tokens, K draft tokens, D hidden size, V vocabulary, J draft vocabulary.

from collections.abc import Callable

import torch
from torch import Tensor

from vllm_mtp.module import KVCache, MTPModule
from vllm_mtp.shared_head import SharedHead


def greedy(logits_V: Tensor) -> int:
    return int(logits_V.argmax())


class DraftLoop:
    """One sequence's drafter: its KV cache holds verified positions only, between rounds."""

    def __init__(self, module: MTPModule, head: SharedHead) -> None:
        self.module = module
        self.head = head
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
    ) -> tuple[list[int], Tensor]:
        """One round: keys and values of the newly verified positions from the target's states, then K draft tokens.

        Args:
            hidden_TD: the target's post-norm hidden states h_t of the positions not yet in the cache, in order.
            next_ids_T: the token x_{t+1} after each of them; the last one was sampled in this round.
            num_speculative_tokens: K, at least 1.
            choose: picks a token id from float32 logits [V]; argmax by default.

        Returns:
            The K draft tokens, and the logits that each was chosen from, [K, V]: -inf outside a draft vocabulary.
        """
        state_TD = self.module(self.head.embed(next_ids_T), hidden_TD, self.cache)
        num_verified = len(self.cache)
        drafts: list[int] = []
        chosen_from = []
        for _ in range(num_speculative_tokens):
            if drafts:
                last_id = next_ids_T.new_tensor([drafts[-1]])
                state_TD = self.module(self.head.embed(last_id), state_TD[-1:], self.cache)
            logits_V = self._logits(state_TD[-1:])[0]
            drafts.append(choose(logits_V))
            chosen_from.append(logits_V)
        self.cache.truncate(num_verified)
        return drafts, torch.stack(chosen_from)

    def _logits(self, hidden_TD: Tensor) -> Tensor:
        """The drafter's logits at the target's width, [T, V], in float32."""
        logits_TJ = self.draft_head.logits(hidden_TD)
        if self.draft_ids_J is None:
            return logits_TJ
        logits_TV = logits_TJ.new_full((len(logits_TJ), len(self.head.head_VD)), float("-inf"))
        return logits_TV.index_copy_(1, self.draft_ids_J.to(logits_TV.device), logits_TJ)
