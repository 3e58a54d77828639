"""What the claims study counts: the same by vLLM as by the plain loop; and what it times."""

from dataclasses import replace
from pathlib import Path

import pytest

from vllm_mtp.benchmarks.claims.config import ClaimsConfig
from vllm_mtp.benchmarks.claims.measure import acceptance, seconds_in_turn

pytestmark = [pytest.mark.vllm, pytest.mark.slow]
CONFIG = ClaimsConfig(temperature=(0.0,), max_tokens=24, speed_passes=1, enforce_eager=True)


def test_vllm_counts_what_the_plain_loop_counts(
    target_dir: Path, draft_dir: Path, prompts: list[list[int]], tmp_path: Path
) -> None:
    """In float32 outputs are equal, and so are the rounds but the last, which vLLM drafts whole."""
    by_engine = {
        engine: acceptance(
            replace(CONFIG, engine=engine),
            prompts[:4],
            target=str(target_dir),
            draft=draft_dir,
            dtype="float32",
            log=tmp_path / "engine.log",
        )["0"]
        for engine in ("vllm", "torch")
    }
    vllm, torch = by_engine["vllm"], by_engine["torch"]
    assert len(vllm["num_drafts"]) == len(torch["num_drafts"]) == 4
    more_drafts = [a - b for a, b in zip(vllm["num_drafts"], torch["num_drafts"], strict=True)]
    assert set(more_drafts) <= {0, 1}
    accepted = [[sum(one) for one in found["accepted_per_position"]] for found in (vllm, torch)]
    assert all(0 <= a - b <= CONFIG.num_speculative_tokens for a, b in zip(*accepted, strict=True))
    assert sum(accepted[1]) > 0


def test_both_drafters_are_timed_on_every_prompt(
    target_dir: Path, draft_dir: Path, prompts: list[list[int]], tmp_path: Path
) -> None:
    seconds = seconds_in_turn(
        CONFIG,
        prompts[:2],
        {"one": draft_dir, "two": draft_dir},
        target=str(target_dir),
        dtype="float32",
        log=tmp_path / "speed.log",
    )
    assert set(seconds) == {"one", "two"}
    assert all(len(of_prompts) == 2 and min(of_prompts) > 0 for of_prompts in seconds.values())
    assert (tmp_path / "speed.one.log").exists()
