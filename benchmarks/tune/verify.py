"""Predicted beside measured speed of what was chosen. Pure functions."""

from collections.abc import Mapping
from typing import Any

from vllm_mtp.benchmarks.harness.method import NONE, Method
from vllm_mtp.benchmarks.harness.rounds import Rounds
from vllm_mtp.benchmarks.tune.choose import Choice
from vllm_mtp.benchmarks.tune.predict import Prediction
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
    with_drafts = [seconds_per_token(drafted[turn]) for turn in turns]
    without = [seconds_per_token(plain[turn]) for turn in turns]
    speedup = sum(without) / sum(with_drafts)
    size = prediction.batch_size
    return {
        "batch_size": size,
        "num_speculative_tokens": prediction.method.num_speculative_tokens,
        "num_turns": len(turns),
        "predicted_speedup": round(prediction.speedup, 4),
        "predicted_speedup_95": [round(end, 4) for end in prediction.speedup_95],
        "measured_speedup": round(speedup, 4),
        "measured_speedup_95": [round(end, 4) for end in ratio_interval(without, with_drafts)],
        "relative_error": round(prediction.speedup / speedup - 1, 4),
        "tokens_per_second": round(len(turns) / sum(with_drafts), 2),
        "tokens_per_second_without": round(len(turns) / sum(without), 2),
        "predicted_tokens_per_round": round(prediction.tokens_per_round, 4),
        "tokens_per_round": round(_tokens_per_round([drafted[turn] for turn in turns], size), 4),
        "predicted_cost": round(prediction.cost, 4),
        "cost": round(_cost(drafted, plain, turns), 4),
    }


def seconds_per_token(rounds: Rounds) -> float:
    """All requests together, over the rounds that were timed."""
    return sum(rounds.seconds) / sum(rounds.tokens)


def _tokens_per_round(turns: list[Rounds], batch_size: int) -> float:
    return sum(sum(one.tokens) for one in turns) / sum(len(one.tokens) for one in turns) / batch_size


def _cost(drafted: Turns, plain: Turns, turns: list[int]) -> float:
    def mean_seconds(of: Turns) -> float:
        return sum(sum(of[turn].seconds) / len(of[turn].seconds) for turn in turns)

    return mean_seconds(drafted) / mean_seconds(plain)
