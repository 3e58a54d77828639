"""What output tokens cost by the hour of a machine, and when training is paid back. Pure functions."""

from dataclasses import dataclass

from vllm_mtp.benchmarks.report.gain import Gain, Interval

_SECONDS_OF_AN_HOUR = 3600
MILLION = 1_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """Of a million output tokens of a machine that is always at this load."""

    without: float
    with_drafts: float
    with_drafts_95: Interval | None
    """By the interval of the speedup."""


def cost_of(gain: Gain, price_per_hour: float) -> Cost:
    """With and without drafts: the machine costs the same, the tokens of an hour are more or fewer."""
    without = cost_per_million(gain.plain_tokens_per_s, price_per_hour)
    bounds = gain.speedup_95
    return Cost(
        without=without,
        with_drafts=without / gain.speedup,
        with_drafts_95=(without / bounds[1], without / bounds[0]) if bounds is not None and bounds[0] > 0 else None,
    )


def cost_per_million(tokens_per_s: float, price_per_hour: float) -> float:
    """Of output tokens."""
    return price_per_hour * MILLION / (tokens_per_s * _SECONDS_OF_AN_HOUR)


def hours_to_pay_back(training_cost: float, price_per_hour: float, speedup: float) -> float | None:
    """Hours of serving with the drafter after which training is paid; None: never.

    An hour does the work of `speedup` hours, and so saves the price of `speedup - 1`.
    """
    return training_cost / (price_per_hour * (speedup - 1)) if speedup > 1 else None


def speedup_that_pays(training_cost: float, price_per_hour: float, hours: float) -> float:
    """The speedup by which training is paid after so many hours of serving."""
    return 1 + training_cost / (price_per_hour * hours)
