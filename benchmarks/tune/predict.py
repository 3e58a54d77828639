"""From acceptance and the seconds of rounds to the speed of every setting. Pure functions.

At some batch size, a request gains `tokens_per_round` tokens in each of its rounds, and a round takes `cost` times as
long as one without speculation: its speedup is the one over the other.

Acceptance is measured with the largest K alone. With a smaller K the same drafts are cut short, and what would have
been accepted of the rest is drafted anew, from a better state. So the tokens between two rejections stay together, and
are handed out k + 1 at a time: that is exact for the K that was measured.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, hypot
from statistics import mean, median

import numpy as np

from vllm_mtp.benchmarks.harness.method import Method
from vllm_mtp.benchmarks.harness.rounds import Output
from vllm_mtp.common.bootstrap import ratio_interval

Interval = tuple[float, float]
_STALL = 3
"""Times the median: a round that takes longer waited for something else on the machine."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """Seconds of a round at one batch size, over turns."""

    seconds: float
    """Median over turns."""
    ratio: float
    """To a round without speculation of the same turn, median over turns."""
    ratio_95: Interval
    """95% bootstrap interval of that median, turns resampled."""
    num_turns: int
    """With a round without speculation beside it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TokensPerRound:
    """What a round gives a request, and its 95% interval over prompts, or over turns."""

    mean: float
    interval: Interval


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """One setting at one batch size; results.json has the same names."""

    method: Method
    batch_size: int
    tokens_per_round: float
    tokens_per_round_95: Interval
    """Over prompts."""
    seconds_per_round: float
    cost: float
    """Of a round, in rounds without speculation."""
    cost_95: Interval
    num_turns: int
    """Of which the cost is the median."""
    tokens_per_second: float
    """All requests together."""
    speedup: float
    speedup_95: Interval
    """Of acceptance over prompts, and of the cost over turns, as if independent."""


def tokens_per_round(outputs: Sequence[Output], measured_k: int, k: int) -> TokensPerRound:
    """With K = k, from the rounds of outputs that were drafted with K = measured_k.

    Args:
        outputs: of complete requests; those without a round say nothing.
        measured_k: at least k.
        k: 0 for none.
    """
    runs = [list(_runs(output.tokens, measured_k)) for output in outputs if output.tokens]
    tokens = [float(sum(of_output)) for of_output in runs]
    rounds = [float(sum(ceil(run / (k + 1)) for run in of_output)) for of_output in runs]
    return TokensPerRound(mean=sum(tokens) / sum(rounds), interval=ratio_interval(tokens, rounds))


def _runs(tokens: Sequence[int], measured_k: int) -> Iterator[int]:
    """Tokens from one rejection to the next, or to the end."""
    run = 0
    for of_round in tokens:
        run += of_round
        if of_round <= measured_k:
            yield run
            run = 0
    if run:
        yield run


def rates_per_position(outputs: Sequence[Output], measured_k: int) -> list[float]:
    """Share of rounds in which the draft token at position 0, 1, ... was accepted."""
    rounds = [tokens for output in outputs for tokens in output.tokens]
    return [sum(tokens > position + 1 for tokens in rounds) / max(1, len(rounds)) for position in range(measured_k)]


def usual(seconds: Sequence[float]) -> float:
    """Mean seconds of a round, stalls left out."""
    longest = _STALL * median(seconds)
    return mean(one for one in seconds if one <= longest)


def cost_of(seconds: Mapping[int, float], without: Mapping[int, float]) -> Cost:
    """From mean seconds of a round by turn, with a setting and without speculation.

    Args:
        seconds: of the setting.
        without: has one of these turns at least.
    """
    ratios = [value / without[turn] for turn, value in seconds.items() if turn in without]
    return Cost(
        seconds=median(seconds.values()),
        ratio=median(ratios),
        ratio_95=_median_interval(ratios),
        num_turns=len(ratios),
    )


def _median_interval(values: Sequence[float], num_resamples: int = 1000) -> Interval:
    drawn = np.random.default_rng(0).choice(values, (num_resamples, len(values)))
    low, high = np.quantile(np.median(drawn, axis=1), (0.025, 0.975), method="nearest")
    return float(low), float(high)


def width(value: float, interval: Interval) -> float:
    """How far an interval reaches to its longer side, as a share of the value."""
    return max(1 - interval[0] / value, interval[1] / value - 1)


def predict(method: Method, batch_size: int, gain: TokensPerRound, cost: Cost) -> Prediction:
    """Speed of a setting at a batch size."""
    speedup = gain.mean / cost.ratio
    below = hypot(1 - gain.interval[0] / gain.mean, 1 - cost.ratio / cost.ratio_95[1])
    above = hypot(gain.interval[1] / gain.mean - 1, cost.ratio / cost.ratio_95[0] - 1)
    return Prediction(
        method=method,
        batch_size=batch_size,
        tokens_per_round=gain.mean,
        tokens_per_round_95=gain.interval,
        seconds_per_round=cost.seconds,
        cost=cost.ratio,
        cost_95=cost.ratio_95,
        num_turns=cost.num_turns,
        tokens_per_second=batch_size * gain.mean / cost.seconds,
        speedup=speedup,
        speedup_95=(speedup * max(0.0, 1 - below), speedup * (1 + above)),
    )
