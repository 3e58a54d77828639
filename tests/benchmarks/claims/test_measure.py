"""What the claims study counts: the same by vLLM as by the plain loop; and what it times."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.benchmarks.records import prompt
from vllm_mtp.benchmarks.claims.config import ClaimsConfig
from vllm_mtp.benchmarks.claims.measure import acceptance, seconds_in_turn
from vllm_mtp.benchmarks.harness.acceptance import total

pytestmark = [pytest.mark.vllm, pytest.mark.slow]
CONFIG = ClaimsConfig(temperature=(0.0,), max_tokens=24, speed_passes=1, enforce_eager=True)


def study_of(target: Path, prompts: list[list[int]], engine: str = "vllm") -> Any:
    """A study as far as it is measured."""
    return SimpleNamespace(
        config=replace(CONFIG, engine=engine),
        target=str(target),
        dtype="float32",
        data=SimpleNamespace(prompts=[prompt(*ids) for ids in prompts]),
    )


@pytest.mark.extended
def test_vllm_counts_what_the_plain_loop_counts(
    target_dir: Path, draft_dir: Path, prompts: list[list[int]], tmp_path: Path
) -> None:
    """In float32 outputs are equal, and so are the rounds, the last of which is drafted whole."""
    by_engine = {
        engine: acceptance(study_of(target_dir, prompts[:4], engine), draft_dir, tmp_path / "engine.log")[0.0]
        for engine in ("vllm", "torch")
    }
    vllm, torch = ([record.acceptance for record in by_engine[name]] for name in ("vllm", "torch"))
    assert len(vllm) == len(torch) == 4
    assert vllm == torch
    assert total(torch).num_accepted_tokens > 0


@pytest.mark.extended
def test_both_drafters_are_timed_on_every_prompt(
    target_dir: Path, draft_dir: Path, prompts: list[list[int]], tmp_path: Path
) -> None:
    drafts = {"one": draft_dir, "two": draft_dir}
    seconds = seconds_in_turn(study_of(target_dir, prompts[:2]), drafts, tmp_path / "speed.log")
    assert set(seconds) == {"one", "two"}
    assert all(len(of_prompts) == 2 and min(of_prompts) > 0 for of_prompts in seconds.values())
    assert (tmp_path / "speed.one.log").exists()
