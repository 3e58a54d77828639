"""The deployed serve line on a real server, asked by its probe while it starts, when it is ready and while it stops.

Catches: a probe that says ready too early, a server that drops the requests under way when it is stopped.
"""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.examples.test_deploy import SERVED, pod, unit_setting
from vllm_mtp.benchmarks.serving.server import environment, free_port, stop

pytestmark = [pytest.mark.vllm, pytest.mark.slow, pytest.mark.extended]

PROBE = pod()["containers"][0]["startupProbe"]["httpGet"]["path"]
MAX_START_S = 600
REQUEST = {"model": "target", "prompt": "def first(self):", "max_tokens": 256, "ignore_eos": True, "temperature": 0}


@pytest.fixture
def served(target_dir: Path, draft_dir: Path, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], httpx.Client]]:
    """The unit's line with the tests' target and drafter, before it is ready."""
    port = free_port()
    words = list(SERVED["unit"][1:])
    words[words.index("serve") + 1] = str(target_dir)
    words[words.index("--spec-model") + 1] = str(draft_dir)
    words += ["--port", str(port), "--max-model-len", "512", "--dtype", "float32", "--enforce-eager"]
    command = [sys.executable, "-m", "vllm.entrypoints.cli.main", *words]
    with (
        (tmp_path / "log").open("wb") as log,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client,
    ):
        process = subprocess.Popen(command, env=environment(), stdout=log, stderr=log, start_new_session=True)
        yield process, client
        stop(process)
        print((tmp_path / "log").read_text()[-3000:])


def answer(client: httpx.Client) -> int | None:
    """The probe's status; None where nothing listens."""
    try:
        return client.get(PROBE, timeout=10).status_code
    except httpx.TransportError:
        return None


def test_the_probe_from_start_to_end(served: tuple[subprocess.Popen[bytes], httpx.Client]) -> None:
    process, client = served
    answers: list[Any] = [answer(client)]
    deadline = time.monotonic() + MAX_START_S
    while answers[-1] != 200 and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.5)
        answers.append(answer(client))
    assert set(answers[:-1]) == {None}, "something answered before it was ready"
    found = client.post("/v1/completions", json=REQUEST | {"max_tokens": 8}, timeout=60)  # at once
    assert found.json()["usage"]["completion_tokens"] == 8
    assert "spec_decode_num_drafts_total" in client.get("/metrics", timeout=10).text

    texts: list[Any] = []
    request = threading.Thread(target=lambda: texts.append(client.post("/v1/completions", json=REQUEST, timeout=60)))
    request.start()
    while "num_requests_running{" not in (metrics := client.get("/metrics", timeout=10).text) or not running(metrics):
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    request.join()
    assert texts[0].json()["usage"]["completion_tokens"] == REQUEST["max_tokens"]
    assert process.wait(int(unit_setting("TimeoutStopSec"))) == 0
    assert answer(client) is None


def running(metrics: str) -> bool:
    return any(
        line.startswith("vllm:num_requests_running{") and float(line.split()[-1]) for line in metrics.splitlines()
    )
