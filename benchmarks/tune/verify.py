"""Predicted beside measured speed of what was chosen. Pure functions.

Measured as it was predicted, on fresh engines and other prompts: tokens a round over what a round costs beside no
speculation in the same turn. What a busy machine does to some turns is in the throughput, not in the speedup.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from vllm_mtp.benchmarks.harness.method import NONE, Method
from vllm_mtp.benchmarks.harness.rounds import Rounds
from vllm_mtp.benchmarks.tune.choose import Choice
from vllm_mtp.benchmarks.tune.predict import Prediction, TokensPerRound, cost_of, predict, usual
from vllm_mtp.common.bootstrap import ratio_interval

Turns = Mapping[int, Rounds]


def verified(measured: Mapping[tuple[Method, int], Turns], choice: Choice) -> list[dict[str, Any]]:
    """A row for each batch size that was verified."""
    return [
        _row(measured[choice.best, size], measured[NONE, size], prediction)
        for size, prediction in choice.by_batch_size.items()
        if (choice.best, size) in measured and (NONE, size) in measured
    ]


def _row(drafted: Turns, plain: Turns, prediction: Prediction) -> dict[str, Any]:
    turns = sorted(set(drafted) & set(plain))
    size, seconds = prediction.batch_size, {turn: usual(drafted[turn].seconds) for turn in turns}
    cost = cost_of(seconds, {turn: usual(plain[turn].seconds) for turn in turns})
    measured = predict(prediction.method, size, gain_of([drafted[turn] for turn in turns], size), cost)
    return {
        "batch_size": size,
        "num_speculative_tokens": prediction.method.num_speculative_tokens,
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
    }


def gain_of(turns: Sequence[Rounds], batch_size: int) -> TokensPerRound:
    """What the timed rounds gave each request; the interval is over turns."""
    tokens = [float(sum(one.tokens)) for one in turns]
    rounds = [float(batch_size * len(one.tokens)) for one in turns]
    return TokensPerRound(mean=sum(tokens) / sum(rounds), interval=ratio_interval(tokens, rounds))


def _throughput(of: Turns, turns: Sequence[int]) -> float:
    """Tokens per second, all requests together, stalls and slow turns included."""
    return round(sum(sum(of[turn].tokens) for turn in turns) / sum(sum(of[turn].seconds) for turn in turns), 2)
