"""Catches: a stale drafter that is not noticed, advice out of too few rounds, a comparison at unequal k."""

from typing import Any

import pytest

from tests.vllm_mtp.monitor.cases import traffic
from vllm_mtp.monitor.advice import advise
from vllm_mtp.monitor.config import MonitorConfig
from vllm_mtp.monitor.expected import Expected
from vllm_mtp.monitor.traffic import Traffic

CARD = Expected(low=1.95, num_speculative_tokens=3, text="2.00 (1.95 to 2.05) on held-out text")
HEALTHY = traffic(1000, 600, 300, 100)


def action(traffic: Traffic, expected: Expected | None = None, **config: Any) -> str:
    return advise(traffic, MonitorConfig(**config), expected).action


@pytest.mark.parametrize(
    ("served", "expected", "config", "wanted"),
    [
        (traffic(0, num_tokens=9000), CARD, {}, "no drafter"),
        (traffic(0, 0, 0, 0, num_tokens=9000), CARD, {}, "not drafting"),
        (traffic(0, 0, 0, 0, num_tokens=10), CARD, {}, "too few rounds"),
        (traffic(499, 10, 0, 0), CARD, {}, "too few rounds"),
        (HEALTHY, CARD, {}, "leave"),
        (HEALTHY, None, {}, "leave"),
        (traffic(1000, 400, 150, 60), CARD, {}, "retrain"),
        (traffic(1000, 400, 150, 60), CARD, {"tolerance": 0.3}, "leave"),
        (traffic(1000, 400, 150, 60), None, {}, "leave"),
        # k = 5 against a card of k = 3: its first three positions.
        (traffic(1000, 400, 150, 60, 60, 60), CARD, {}, "retrain"),
        (traffic(1000, 600, 300, 100, 90, 80), CARD, {}, "leave"),
        # Nothing is known of k = 2, and nothing of drafts that a schedule cuts.
        (traffic(1000, 300, 150), CARD, {}, "leave"),
        (traffic(1000, 400, 150, 60, num_draft_tokens=2000), CARD, {}, "leave"),
        (traffic(1000, 600, 300, 10), None, {}, "lower k"),
        (traffic(1000, 600, 300, 10), None, {"least_rate": 0.005}, "leave"),
    ],
)
def test_advice(served: Traffic, expected: Expected | None, config: dict[str, Any], wanted: str) -> None:
    assert action(served, expected, **config) == wanted


def test_the_sentence_says_what_and_why() -> None:
    low = advise(traffic(1000, 600, 20, 10), MonitorConfig(), None).sentence
    assert low == "Lower k to 1: position 1 is accepted in 2.0% of rounds, and pays from 5.0% on."
    stale = advise(traffic(1000, 400, 150, 60), MonitorConfig(), CARD).sentence
    assert "`vllm-mtp train --initial DRAFT_DIR`" in stale
    assert "1.61 tokens a round (1.56 to 1.66) at k = 3, against 2.00 (1.95 to 2.05) on held-out text" in stale
    longer = advise(traffic(1000, 600, 300, 100, 90, 80), MonitorConfig(), CARD).sentence
    assert "2.00 tokens a round" in longer
    assert "at k = 3" in longer
    assert "Not compared" in advise(traffic(1000, 300, 150), MonitorConfig(), CARD).sentence


def test_a_round_cost_decides_what_a_position_must_bring() -> None:
    """2 tokens for 1.2 steps: a third of 0.2 steps brings as much as the average from 0.11 tokens on."""
    assert action(traffic(1000, 600, 300, 100), round_cost=1.2) == "leave"
    assert action(traffic(1000, 600, 320, 60), round_cost=1.2) == "lower k"
    loss = advise(traffic(1000, 300, 100, 60), MonitorConfig(round_cost=2.5), None)
    assert loss.sentence.startswith("Serve without a drafter")
