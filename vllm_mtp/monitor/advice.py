"""What the owner of a drafter should do, in a sentence: retrain, lower k, or leave."""

from dataclasses import dataclass

from vllm_mtp.benchmarks.harness.acceptance import Acceptance
from vllm_mtp.monitor.config import MonitorConfig
from vllm_mtp.monitor.expected import Expected
from vllm_mtp.monitor.figures import first_positions, length_interval, rate_interval
from vllm_mtp.monitor.traffic import Traffic

LEAVE, LOWER_K, RETRAIN = "leave", "lower k", "retrain"
NO_DRAFTER, NOT_DRAFTING, TOO_FEW = "no drafter", "not drafting", "too few rounds"
TO_ACT_ON = (LOWER_K, RETRAIN, NO_DRAFTER, NOT_DRAFTING)
_ALL_DRAFTED = 0.95
"""Share of K that rounds draft where no schedule cuts them: ends of requests do, by a little."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Advice:
    """A word for scripts, and a sentence."""

    action: str
    sentence: str


def advise(traffic: Traffic, config: MonitorConfig, expected: Expected | None) -> Advice:
    """Judges some traffic; too little of it is not judged."""
    acceptance = traffic.acceptance
    if acceptance is None:
        return Advice(
            action=NO_DRAFTER,
            sentence="This server has no drafter: start it with --spec-method mtp --spec-model DRAFT_DIR "
            "--spec-tokens 3.",
        )
    if not acceptance.num_drafts and traffic.num_tokens >= config.min_rounds:
        return Advice(
            action=NOT_DRAFTING,
            sentence=f"Nothing was drafted for {traffic.num_tokens:,} tokens: a schedule with k = 0 at this batch "
            "size, or a request beyond the drafter's max_model_len (`vllm-mtp doctor`).",
        )
    if acceptance.num_drafts < config.min_rounds:
        return Advice(
            action=TOO_FEW,
            sentence=f"Too few rounds yet: {acceptance.num_drafts:,} of {config.min_rounds:,} (--min-rounds).",
        )
    return _why_retrain(acceptance, config, expected) or _why_lower(acceptance, config) or _leave(acceptance, expected)


def _why_retrain(acceptance: Acceptance, config: MonitorConfig, expected: Expected | None) -> Advice | None:
    served = _alike(acceptance, expected)
    if served is None or expected is None:
        return None
    least = (1 - config.tolerance) * expected.low
    if length_interval(served)[1] >= least:
        return None
    return Advice(
        action=RETRAIN,
        sentence="Retrain on text of this traffic (`vllm-mtp train --initial DRAFT_DIR`): "
        f"{_compared(served, expected)}. More than {config.tolerance:.0%} is missing: traffic or target have changed.",
    )


def _why_lower(acceptance: Acceptance, config: MonitorConfig) -> Advice | None:
    if not _drafts_all(acceptance):
        return None
    rates, num_rounds = acceptance.acceptance_rate_per_position, acceptance.num_drafts
    least = _least_rate(acceptance, config)
    k = len(rates)
    while k and rate_interval(rates[k - 1], num_rounds)[1] < least:
        k -= 1
    if k == len(rates):
        return None
    what = f"Lower k to {k}" if k else "Serve without a drafter"
    return Advice(
        action=LOWER_K,
        sentence=f"{what}: position {k} is accepted in {rates[k]:.1%} of rounds, and pays from {least:.1%} on.",
    )


def _least_rate(acceptance: Acceptance, config: MonitorConfig) -> float:
    """How often a last position must be accepted to pay.

    With a round cost c at K tokens, one token more costs (c - 1) / K steps of the target, if all cost the same. It pays
    where what it brings for that is more than what a round brings for its cost, or for a step without a drafter.
    """
    if config.round_cost is None:
        return config.least_rate
    k = len(acceptance.num_accepted_tokens_per_position)
    per_step = max(acceptance.acceptance_length / config.round_cost, 1.0)
    return per_step * (config.round_cost - 1) / k


def _leave(acceptance: Acceptance, expected: Expected | None) -> Advice:
    served = _alike(acceptance, expected)
    if served is not None and expected is not None:
        said = f"{_compared(served, expected)}."
    elif expected is None:
        said = f"{_length(acceptance)}. Give --draft or --expected-length to have it compared."
    else:
        said = f"{_length(acceptance)}. {_why_not_alike(acceptance, expected)}."
    return Advice(action=LEAVE, sentence=f"Leave it as it is: {said}")


def _alike(acceptance: Acceptance, expected: Expected | None) -> Acceptance | None:
    """What is served at the k that is expected something of; None where that cannot be told."""
    if expected is None or not _drafts_all(acceptance):
        return None
    served_k = len(acceptance.num_accepted_tokens_per_position)
    k = expected.num_speculative_tokens or served_k
    return first_positions(acceptance, k) if k <= served_k else None


def _why_not_alike(acceptance: Acceptance, expected: Expected) -> str:
    if not _drafts_all(acceptance):
        return "Not compared: many rounds draft less than k tokens"
    return f"Not compared with {expected.text}, at k = {expected.num_speculative_tokens} (give --expected-length)"


def _drafts_all(acceptance: Acceptance) -> bool:
    k = len(acceptance.num_accepted_tokens_per_position)
    return acceptance.num_draft_tokens >= _ALL_DRAFTED * k * acceptance.num_drafts


def _length(acceptance: Acceptance) -> str:
    low, high = length_interval(acceptance)
    k = len(acceptance.num_accepted_tokens_per_position)
    return f"{acceptance.acceptance_length:.2f} tokens a round ({low:.2f} to {high:.2f}) at k = {k}"


def _compared(served: Acceptance, expected: Expected) -> str:
    return f"{_length(served)}, against {expected.text}"
