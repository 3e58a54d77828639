"""Predicted beside measured speed of what was chosen. Pure functions.

Measured as it was predicted, in a fresh engine on other prompts: the tokens of a round, over all of those prompts, over
what a round costs in turn with no speculation. What a busy machine does to some turns is in the throughput, not in the
speedup.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from vllm_mtp.benchmarks.harness.method import NONE, Method
from vllm_mtp.benchmarks.harness.rounds import Rounds
from vllm_mtp.benchmarks.tune.choose import Choice
from vllm_mtp.benchmarks.tune.predict import Prediction, TokensPerRound, cost_of, predict, tokens_per_round, usual

Turns = Mapping[int, Rounds]


def verified(
    measured: Mapping[tuple[Method, int], Turns], counted: Mapping[int, Rounds], choice: Choice
) -> list[dict[str, Any]]:
    """A row for each batch size that was verified.

    Args:
        measured: turns of what was chosen, and of no speculation, by batch size.
        counted: by K above 0: every held-out prompt once.
        choice: with its predictions.
    """
    return [
        _row(measured[choice.best, size], measured[NONE, size], counted, prediction)
        for size, prediction in choice.by_batch_size.items()
        if (choice.best, size) in measured and (NONE, size) in measured
    ]


def _row(drafted: Turns, plain: Turns, counted: Mapping[int, Rounds], prediction: Prediction) -> dict[str, Any]:
    turns = sorted(set(drafted) & set(plain))
    size, seconds = prediction.batch_size, {turn: usual(drafted[turn].seconds) for turn in turns}
    cost = cost_of(seconds, {turn: usual(plain[turn].seconds) for turn in turns})
    k = prediction.method.num_speculative_tokens
    gain = tokens_per_round(counted[k].outputs, k, k) if k else TokensPerRound(mean=1.0, interval=(1.0, 1.0))
    measured = predict(prediction.method, size, gain, cost)
    return {
        "batch_size": size,
        "num_speculative_tokens": k,
        "num_turns": len(turns),
        "predicted_speedup": round(prediction.speedup, 4),
        "predicted_speedup_95": [round(end, 4) for end in prediction.speedup_95],
        "measured_speedup": round(measured.speedup, 4),
        "measured_speedup_95": [round(end, 4) for end in measured.speedup_95],
        "relative_error": round(prediction.speedup / measured.speedup - 1, 4),
        "tokens_per_second": _throughput(drafted, turns),
        "tokens_per_second_without": _throughput(plain, turns),
        "predicted_tokens_per_round": round(prediction.tokens_per_round, 4),
        "tokens_per_round": round(measured.tokens_per_round, 4),
        "predicted_cost": round(prediction.cost, 4),
        "cost": round(measured.cost, 4),
        "cost_95": [round(end, 4) for end in measured.cost_95],
    }


def _throughput(of: Turns, turns: Sequence[int]) -> float:
    """Tokens per second, all requests together, stalls and slow turns included."""
    return round(sum(sum(of[turn].tokens) for turn in turns) / sum(sum(of[turn].seconds) for turn in turns), 2)
