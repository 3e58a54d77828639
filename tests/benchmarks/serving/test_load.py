"""Catches: figures of other units or names than vLLM's, a failed request that passes for a fast one."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from vllm_mtp.benchmarks.serving import load
from vllm_mtp.benchmarks.serving.config import ServingConfig
from vllm_mtp.benchmarks.serving.load import figures, requests_of, run_load
from vllm_mtp.benchmarks.serving.server import ServerError

RESULT = {
    "duration": 2.0,
    "completed": 4,
    "failed": 0,
    "total_input_tokens": 40,
    "total_output_tokens": 96,
    "output_throughput": 48.0,
    "request_throughput": 2.0,
    "request_goodput": 1.5,
    **{f"p{percent}_{name}_ms": percent + 0.5 for percent in (50, 90, 99) for name in ("ttft", "tpot")},
    "spec_decode_acceptance_length": 1.5,
}


def test_figures_of_a_row() -> None:
    found = figures(RESULT)
    assert (found["ttft_p50_ms"], found["tpot_p99_ms"]) == (50.5, 99.5)
    assert (found["output_tokens_per_s"], found["goodput_requests_per_s"]) == (48.0, 1.5)
    assert found["acceptance_length"] == 1.5
    plain = {name: value for name, value in RESULT.items() if not name.startswith("spec_decode")}
    assert "acceptance_length" not in figures(plain)


def test_seconds_and_tokens_of_each_request() -> None:
    detailed = {"ttfts": [0.5, 0.25], "itls": [[0.1, 0.2], []], "output_lens": [5, 1]}
    found = requests_of(RESULT | detailed)
    assert found["ttft_s"] == [0.5, 0.25]
    assert found["decode_s"] == [pytest.approx(0.3), 0]
    assert found["output_tokens"] == [5, 1]


@pytest.mark.parametrize(
    ("code", "message"),
    [("raise SystemExit(3)", "ended with status 3"), ("", "ended with status 0")],
)
def test_a_load_without_a_result_is_named(
    code: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ServerError, match=message):
        loaded(code, tmp_path, monkeypatch)


def test_failed_requests_are_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "result").write_text(json.dumps(RESULT | {"failed": 3}))
    with pytest.raises(ServerError, match="3 of 16 requests failed"):
        loaded(f"import shutil; shutil.copy({str(tmp_path / 'result')!r}, 'row.json')", tmp_path, monkeypatch)


def loaded(code: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A load of which this code is done in place of vLLM's, in the folder."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(load, "VLLM", (sys.executable, "-c", code))
    return run_load(
        ServingConfig(),
        url="http://127.0.0.1:9",
        target="t",
        requests=folder / "requests.jsonl",
        concurrency=2,
        is_plain=True,
        path=folder / "row.json",
    )
