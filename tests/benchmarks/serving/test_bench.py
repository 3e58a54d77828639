"""`vllm-mtp bench serving` on real servers, as it is typed.

Catches: a server or load that vLLM refuses, rows that are measured again, drafting that the load does not see, a
baseline that takes the drafter's rows with it.
"""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.drafts import config_for, write_random_draft
from vllm_mtp.benchmarks.harness.method import BASELINES, NONE, Method, mtp
from vllm_mtp.benchmarks.harness.row_store import RowStore
from vllm_mtp.benchmarks.serving import bench as serving
from vllm_mtp.benchmarks.serving.bench import Setup
from vllm_mtp.benchmarks.serving.config import ServingConfig
from vllm_mtp.benchmarks.serving.server import ServerError
from vllm_mtp.cli import main

ROOT = Path(__file__).resolve().parents[3]


def words(target: Path, draft: Path, output: Path) -> list[str]:
    found = ["bench", "serving", str(target), "--draft", str(draft), "--output", str(output)]
    found += ["--prompts", str(ROOT / "examples" / "stdlib" / "prompts.txt"), "--dtype", "float32", "--enforce-eager"]
    found += ["--concurrency", "1", "2", "--max-tokens", "24", "--min-requests", "4", "--requests-per-client", "2"]
    return [*found, "--repeats", "1", "--max-tpot-ms", "60000", "--max-ttft-ms", "60000"]


@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.extended
def test_rows_table_and_going_on(
    target_dir: Path, draft_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = words(target_dir, draft_dir, tmp_path / "out")
    assert main(command) == 0
    rows = json.loads((tmp_path / "out" / "results.json").read_text())["rows"]
    assert [(row["method"], row["concurrency"]) for row in rows] == [("none", 1), ("mtp", 1), ("none", 2), ("mtp", 2)]
    for row in rows:
        assert row["total_output_tokens"] == 4 * 24
        assert 0 < row["ttft_p50_ms"] <= row["ttft_p99_ms"]
        assert row["goodput_requests_per_s"] == pytest.approx(row["requests_per_s"])
        assert ("acceptance_length" in row) == (row["method"] == "mtp")
    assert rows[1]["acceptance_length"] > 1.1
    first = capsys.readouterr()
    assert servers(first.err) == ["none", "mtp"]
    assert main([*command, "--concurrency", "2", "--repeats", "2"]) == 0  # adds the second repeat, the other way round
    assert servers(capsys.readouterr().err) == ["mtp", "none"]
    row = json.loads((tmp_path / "out" / "results.json").read_text())["rows"][1]
    for name in ("output_tokens_per_s", "ttft", "tpot"):
        low, high = row[f"{name}_ratio_95"]
        assert low < row[f"{name}_ratio"] < high
    assert main(command) == 0  # nothing is measured again: no server is started
    again = capsys.readouterr()
    assert (again.out, servers(again.err)) == (first.out, [])


def servers(said: str) -> list[str]:
    """What was served, in turn, with two requests at once."""
    return [line.split(",")[0] for line in said.splitlines() if ", 2 at once, repeat" in line]


def test_prompts_that_do_not_fit_are_refused(
    target_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draft = write_random_draft(tmp_path / "draft", config_for(target_dir))
    command = [*words(target_dir, draft, tmp_path / "out"), "--max-tokens", "100000"]
    assert main(command) == 2
    assert "--prompts: none of" in capsys.readouterr().err


@pytest.mark.parametrize(("dies", "refused"), [(mtp(3), True), (BASELINES["ngram"], False)])
def test_a_baseline_whose_server_ends_costs_its_rows_alone(
    dies: Method, refused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[Method] = []

    def serve(setup: Setup, method: Method, *_: Any) -> None:
        served.append(method)
        if method == dies:
            raise ServerError("vllm serve ended with status 1; its log is LOG")

    monkeypatch.setattr(serving, "_serve", serve)
    methods = [NONE, BASELINES["ngram"], mtp(3)]
    engine: Any = SimpleNamespace()
    setup = Setup(config=ServingConfig(repeats=2), engine=engine, output=tmp_path, is_plain=True)
    store = RowStore(tmp_path, {"serving": {}})
    if refused:
        with pytest.raises(ValueError, match=r"^mtp.* ended with status 1"):
            serving.measure(setup, methods, store, {})
    else:
        missing = {str(dies): "vllm serve ended with status 1; its log is LOG"}
        assert serving.measure(setup, methods, store, {}) == missing
        assert served == [*methods, mtp(3), NONE], "it is not tried again"
