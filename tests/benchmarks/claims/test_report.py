"""Catches: a claim that passes although its interval holds zero; short prompts in a claim about long ones."""

from typing import Any

import pytest

from vllm_mtp.benchmarks.claims.arms import DRAFT, Arm, Comparison
from vllm_mtp.benchmarks.claims.report import claim_rows, verdict
from vllm_mtp.benchmarks.claims.rows import ArmRow
from vllm_mtp.benchmarks.harness.acceptance import Acceptance
from vllm_mtp.benchmarks.harness.statistics import Estimate


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.1, 0.3, "reproduced"), (-0.1, 0.3, "not separated"), (-0.3, -0.1, "opposite")],
)
def test_verdict(low: float, high: float, expected: str) -> None:
    assert verdict(Estimate(mean=(low + high) / 2, low=low, high=high, of_runs=())) == expected


def test_prompts_that_are_too_short_do_not_count() -> None:
    """Three prompts of 10, 64 and 90 tokens; the first arm accepts more of the first, and as much of the others."""

    def row(arm: Arm, seed: int, *accepted: int) -> ArmRow:
        counts = [
            Acceptance(num_drafts=10, num_draft_tokens=10, num_accepted_tokens_per_position=(number,))
            for number in accepted
        ]
        usual: dict[str, Any] = {"tokens_seen": 1, "distinct_tokens": [1], "training_seconds": 1.0, "draft": ""}
        usual |= {"measuring_seconds": 1.0, "num_loops": {"0": 0}, "made_with": {}}
        return ArmRow(arm=arm.name, seed=seed, counts={"0": counts}, **usual)

    one = Arm(num_steps_unrolled=3, vocabulary=DRAFT)
    two = Arm(num_steps_unrolled=3, vocabulary=DRAFT, settings=(("sequence_length", 64),))
    rows = {(one.name, seed): row(one, seed, 9, 5, 4) for seed in (0, 1)}
    rows |= {(two.name, seed): row(two, seed, 1, 5, 4) for seed in (0, 1)}

    def measured(min_prompt_tokens: int) -> list[tuple[str, float]]:
        asked = Comparison(claim="rows", statement="", better=one, worse=two, min_prompt_tokens=min_prompt_tokens)
        found = claim_rows([asked], rows, {}, (0, 1), (10, 64, 90))
        return [(claim["metric"], claim["difference"]["mean"]) for claim in found]

    assert measured(0) == [("acceptance length, temperature 0", pytest.approx(8 / 30, abs=1e-4))]
    assert measured(64) == [("acceptance length, temperature 0, 2 prompts of 64 tokens or more", 0.0)]
    assert measured(91) == []
