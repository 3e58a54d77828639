"""How `eval` chooses and verifies tokens: exactly as vLLM, so that the output is distributed as the target's own.

    p = softmax of (target's logits / temperature) over the tokens that top_k and top_p leave
    q = softmax of (drafter's logits / temperature)

A draft token x is accepted with probability min(1, p(x) / q(x)); the token in place of a rejected one is drawn from
max(p - q, 0). As in vLLM, drafts are drawn by the temperature alone: top_k and top_p decide what is accepted.
"""

# Shapes: V vocabulary.

from collections.abc import Callable

import torch
from torch import Tensor


class Sampler:
    """Chooses and verifies tokens.

    Args:
        temperature: 0 is greedy, and passes over top_p and top_k.
        seed: of all draws.
        top_p: of the most likely tokens those that have this probability together are left, at least one.
        top_k: so many of the most likely tokens are left; 0: all.
    """

    def __init__(self, temperature: float, seed: int, *, top_p: float = 1.0, top_k: int = 0) -> None:
        self.temperature, self.top_p, self.top_k = temperature, top_p, top_k
        self.generator = torch.Generator().manual_seed(seed)

    def choose(self, logits_V: Tensor) -> int:
        """A token by the target's logits."""
        return self._choose(logits_V, self.of_target)

    def draft(self, logits_V: Tensor) -> int:
        """A token by the drafter's logits."""
        return self._choose(logits_V, self.of_draft)

    def accepts(self, draft: int, target_logits_V: Tensor, draft_logits_V: Tensor) -> bool:
        if self.temperature == 0:
            return draft == int(target_logits_V.argmax())
        p, q = self.of_target(target_logits_V)[draft], self.of_draft(draft_logits_V)[draft]
        return bool(torch.rand((), generator=self.generator) * q < p)

    def recover(self, target_logits_V: Tensor, draft_logits_V: Tensor) -> int:
        """The token in place of a rejected one."""
        if self.temperature == 0:
            return int(target_logits_V.argmax())
        return self._draw((self.of_target(target_logits_V) - self.of_draft(draft_logits_V)).clamp(min=0))

    def of_draft(self, logits_V: Tensor) -> Tensor:
        """q, [V]."""
        return (logits_V.float() / self.temperature).softmax(-1)

    def of_target(self, logits_V: Tensor) -> Tensor:
        """p, [V]: top_k first, top_p of what it leaves; tokens as likely as the last one of top_k stay too."""
        scaled_V = logits_V.float() / self.temperature
        if 0 < self.top_k < len(scaled_V):
            scaled_V = scaled_V.masked_fill(scaled_V < scaled_V.topk(self.top_k).values[-1], float("-inf"))
        if self.top_p < 1:
            sorted_V, order_V = scaled_V.sort()
            is_out_V = sorted_V.softmax(-1).cumsum(-1) <= 1 - self.top_p
            is_out_V[-1] = False
            scaled_V = scaled_V.masked_fill(is_out_V.scatter(0, order_V, is_out_V), float("-inf"))
        return scaled_V.softmax(-1)

    def _choose(self, logits_V: Tensor, probabilities: Callable[[Tensor], Tensor]) -> int:
        return int(logits_V.argmax()) if self.temperature == 0 else self._draw(probabilities(logits_V))

    def _draw(self, weights_V: Tensor) -> int:
        return int(torch.multinomial(weights_V.cpu(), 1, generator=self.generator))
