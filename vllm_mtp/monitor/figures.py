"""What is shown of some traffic: rates, acceptance, waste and gain. Pure functions."""

import math
from dataclasses import dataclass

from vllm_mtp.benchmarks.harness.acceptance import Acceptance
from vllm_mtp.monitor.traffic import Traffic

_Z_95 = 1.96
Interval = tuple[float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """Of one stretch of time. None: nothing was drafted, or what it is computed from is not known."""

    seconds: float
    requests_running: int
    requests_waiting: int
    tokens_per_s: float
    rounds_per_s: float | None
    """Rounds of a request in which something was drafted: a batch of 8 requests makes 8 at a time."""
    latency_ms: float | None
    """Mean time between two outputs of a request: of a round, where all are drafted."""
    num_rounds: int
    num_speculative_tokens: int
    """K; 0: the server has no drafter."""
    drafted_per_round: float | None
    """Less than K where a schedule or a request's end cuts drafts short."""
    acceptance_length: float | None
    acceptance_length_95: Interval | None
    acceptance_rate_per_position: list[float] | None
    conditional_acceptance_rate_per_position: list[float | None] | None
    wasted_share: float | None
    """Of the drafted tokens, those that were not accepted."""
    estimated_gain: float | None
    """Acceptance length / round cost: speed beside the same server without a drafter."""


def figures_of(traffic: Traffic, round_cost: float | None) -> Figures:
    """The figures of some traffic; `round_cost` is in steps of the target without drafting."""
    acceptance = traffic.acceptance
    drafted = acceptance if acceptance is not None and acceptance.num_drafts else None
    length = None if drafted is None else drafted.acceptance_length
    return Figures(
        seconds=round(traffic.seconds, 2),
        requests_running=traffic.num_running,
        requests_waiting=traffic.num_waiting,
        tokens_per_s=traffic.num_tokens / traffic.seconds,
        rounds_per_s=None if acceptance is None else acceptance.num_drafts / traffic.seconds,
        latency_ms=1000 * traffic.latencies_s / traffic.num_latencies if traffic.num_latencies else None,
        num_rounds=0 if acceptance is None else acceptance.num_drafts,
        num_speculative_tokens=0 if acceptance is None else len(acceptance.num_accepted_tokens_per_position),
        drafted_per_round=None if drafted is None else drafted.num_draft_tokens / drafted.num_drafts,
        acceptance_length=length,
        acceptance_length_95=None if drafted is None else length_interval(drafted),
        acceptance_rate_per_position=None if drafted is None else drafted.acceptance_rate_per_position,
        conditional_acceptance_rate_per_position=(
            None if drafted is None else drafted.conditional_acceptance_rate_per_position
        ),
        wasted_share=None if drafted is None else 1 - drafted.acceptance_rate,
        estimated_gain=None if length is None or round_cost is None else length / round_cost,
    )


def length_interval(acceptance: Acceptance) -> Interval:
    """95% normal interval of the acceptance length, from how many rounds accepted 0, 1, ..., K tokens.

    Rounds count as independent. Those of one request are alike, so that with few requests it is too narrow.
    """
    rates = acceptance.acceptance_rate_per_position
    mean = sum(rates)
    variance = sum((2 * position + 1) * rate for position, rate in enumerate(rates)) - mean**2
    half = _Z_95 * math.sqrt(max(variance, 0.0) / acceptance.num_drafts)
    return max(1 + mean - half, 1.0), min(1 + mean + half, 1.0 + len(rates))


def rate_interval(rate: float, num_rounds: int) -> Interval:
    """95% Wilson interval of a share of rounds, which holds where the share is 0 too."""
    z2 = _Z_95**2 / num_rounds
    middle = (rate + z2 / 2) / (1 + z2)
    half = _Z_95 * math.sqrt(rate * (1 - rate) / num_rounds + z2 / (4 * num_rounds)) / (1 + z2)
    return max(middle - half, 0.0), min(middle + half, 1.0)


def first_positions(acceptance: Acceptance, k: int) -> Acceptance:
    """What drafts of k tokens would have counted: a position is accepted or not whatever is drafted behind it.

    Holds where every round drafted at least k tokens.
    """
    return Acceptance(
        num_drafts=acceptance.num_drafts,
        num_draft_tokens=k * acceptance.num_drafts,
        num_accepted_tokens_per_position=acceptance.num_accepted_tokens_per_position[:k],
    )
