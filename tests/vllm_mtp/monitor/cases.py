"""Traffic and metrics for the tests of `vllm-mtp monitor`."""

import re
from pathlib import Path

from vllm_mtp.benchmarks.harness.acceptance import Acceptance
from vllm_mtp.monitor.traffic import Traffic

METRICS = Path(__file__).with_name("metrics.txt")
"""Of the server of tests/serving/server.py with the tests' drafter at k = 3, vLLM 0.32, after six completions of 64
tokens; some histograms' buckets and comments are left out."""


def traffic(num_drafts: int, *accepted: int, num_draft_tokens: int | None = None, num_tokens: int = 1000) -> Traffic:
    """Ten seconds with these counts per position; drafts are whole unless it is said how many tokens they had."""
    acceptance = Acceptance(
        num_drafts=num_drafts,
        num_draft_tokens=len(accepted) * num_drafts if num_draft_tokens is None else num_draft_tokens,
        num_accepted_tokens_per_position=accepted,
    )
    return Traffic(
        seconds=10,
        num_running=2,
        num_waiting=0,
        num_tokens=num_tokens,
        num_latencies=100,
        latencies_s=3.0,
        acceptance=acceptance if accepted else None,
    )


def with_values(**values: float) -> str:
    """The saved metrics with other values, by the names of metrics without `vllm:`; `name__2` is position 2's."""
    text = METRICS.read_text()
    for name, value in values.items():
        metric, _, position = name.partition("__")
        labels = rf'{{[^}}]*position="{position}"[^}}]*}}' if position else r"{[^}]*}"
        text, count = re.subn(rf"^(vllm:{metric}{labels}) \S+$", rf"\g<1> {value}", text, flags=re.MULTILINE)
        assert count == 1, name
    return text
