"""Acceptance length on held-out rows: tokens that a round of drafting and verification gives, read off the text.

At every position K tokens are drafted. One is accepted if it is the target's own most likely token, given the text, and
all before it were. Then each row is walked as rounds go: from its first token that counts on, a round gives the tokens
that it accepts and one more, and the next round starts behind them.

On text that the target wrote greedily these are the rounds of `vllm-mtp eval` at temperature 0 with lookup off, one for
one: an accepted token is the text's, so that `unroll`, which feeds the text's tokens and the module's own states, has
fed what the drafter drafted, and behind the first rejected one nothing counts. On other text it is how far drafter and
target agree when both are given the text, a little less than greedy decoding from there would accept (docs/log.md).
"""

# Shapes: B sequences, T positions, K draft tokens, S teacher positions, at least T + K, N rows.

from collections.abc import Sequence

import torch
from torch import Tensor

from vllm_mtp.common.bootstrap import ratio_interval


def accepted_drafts(agrees_KBT: Tensor) -> Tensor:
    """How many of K draft tokens a round at each position accepts, [B, T]: all before the first that is not right.

    Args:
        agrees_KBT: at which states drafter and target have the same most likely token, and it counts (`distillation`).
    """
    return agrees_KBT.int().cumprod(0).sum(0)


def tokens_of_rounds(num_accepted_T: Sequence[int], counts_S: Sequence[bool]) -> list[int]:
    """What each round of a row gives, no more than is left of the tokens that count.

    Args:
        num_accepted_T: how many draft tokens a round at each position accepts.
        counts_S: whether the token behind each position counts. The first of each stretch is there without a round.
    """
    rounds, position = [], 0
    while position + 1 < len(counts_S):
        if not (counts_S[position] and counts_S[position + 1]):
            position += 1
            continue
        most = num_accepted_T[position] + 1
        behind = counts_S[position + 1 : position + 1 + most]
        rounds.append(behind.index(False) if False in behind else len(behind))
        position += rounds[-1]
    return rounds


def tokens_and_rounds(num_accepted_BT: Tensor, mask_BS: Tensor) -> Tensor:
    """How many tokens each row's rounds give, and how many rounds they are, [2, B]."""
    rounds = [tokens_of_rounds(*row) for row in zip(num_accepted_BT.tolist(), mask_BS.tolist(), strict=True)]
    return torch.tensor([[sum(of_row) for of_row in rounds], [len(of_row) for of_row in rounds]])


def acceptance_length(tokens_and_rounds_2N: Tensor) -> tuple[float, tuple[float, float]] | None:
    """Tokens a round over all rows, with the 95% interval over rows resampled; None where there is no round."""
    tokens_N, rounds_N = tokens_and_rounds_2N.tolist()
    if not sum(rounds_N):
        return None
    accepted_N = [tokens - rounds for tokens, rounds in zip(tokens_N, rounds_N, strict=True)]
    low, high = ratio_interval(accepted_N, rounds_N)
    return round(sum(tokens_N) / sum(rounds_N), 4), (round(1 + low, 4), round(1 + high, 4))
