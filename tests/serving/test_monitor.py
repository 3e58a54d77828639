"""`vllm-mtp monitor`, and the shipped rules and dashboard in a real Prometheus, on a real server with a drafter.

Catches: names and labels that vLLM does not have, a rule that says something else than the command, a dashboard
query without data.
"""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.examples.test_monitoring import FOLDER, dashboard_queries
from tests.serving.server import Server, served
from tests.serving.test_server import acceptance_of, drafting
from vllm_mtp.benchmarks.serving.server import free_port, stop

pytestmark = [pytest.mark.vllm, pytest.mark.slow, pytest.mark.extended]

INTERVAL_S, MAX_WAIT_S = 60, 60
NO_PROMETHEUS = pytest.mark.skipif(
    not (shutil.which("prometheus") and shutil.which("promtool")),
    reason="Prometheus is not installed (apt: prometheus)",
)
ALERTS = Path(__file__).with_name("alerts.yml")


@pytest.fixture(scope="module")
def server(target_dir: Path, draft_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with served(target_dir, tmp_path_factory.mktemp("server"), drafting("short flags", draft_dir)) as server:
        yield server


class Prometheus:
    """A running one, asked through its API."""

    def __init__(self, url: str) -> None:
        self.client = httpx.Client(base_url=url, timeout=10, trust_env=False)

    def ask(self, query: str) -> list[dict[str, Any]]:
        answer = self.client.get("/api/v1/query", params={"query": query})
        assert answer.status_code == 200, answer.text
        found: list[dict[str, Any]] = answer.json()["data"]["result"]
        return found

    def value(self, query: str) -> float:
        [one] = self.ask(query)
        return float(one["value"][1])

    def series(self, selector: str) -> list[dict[str, str]]:
        found: list[dict[str, str]] = self.client.get("/api/v1/series", params={"match[]": selector}).json()["data"]
        return found


@contextmanager
def prometheus(server: Server, folder: Path) -> Iterator[Prometheus]:
    """One that scrapes the server twice a second under the shipped rules."""
    shutil.copy(FOLDER / "rules.yml", folder)
    scraped = {"job_name": "vllm", "static_configs": [{"targets": [server.url.removeprefix("http://")]}]}
    settings = {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "500ms"}
    config = {"global": settings, "rule_files": ["rules.yml"], "scrape_configs": [scraped]}
    (folder / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
    address = f"127.0.0.1:{free_port()}"
    command = [
        "prometheus",
        "--config.file=prometheus.yml",
        f"--web.listen-address={address}",
        "--storage.tsdb.path=db",
    ]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)
        try:
            found = Prometheus(f"http://{address}")
            until(lambda: is_up(found))
            yield found
        finally:
            stop(process)
            print((folder / "prometheus.log").read_text()[-2000:])


def is_up(prometheus: Prometheus) -> bool:
    try:
        return prometheus.value('up{job="vllm"}') == 1
    except (httpx.TransportError, AssertionError, ValueError):
        return False


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + MAX_WAIT_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.5)


@contextmanager
def monitor(server: Server, draft_dir: Path) -> Iterator["subprocess.Popen[str]"]:
    """A running `vllm-mtp monitor --once --json` that has had its first look at the server."""
    num_looks = server.log.read_text().count("GET /metrics")
    words = f"{server.url} --once --json --interval {INTERVAL_S} --min-rounds 50 --least-rate 0 --draft {draft_dir}"
    command = [sys.executable, "-m", "vllm_mtp.cli", "monitor", *words.split()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        until(lambda: server.log.read_text().count("GET /metrics") > num_looks)
        yield process


@pytest.mark.skipif(not shutil.which("prometheus"), reason="Prometheus is not installed (Debian's prometheus)")
def test_command_rules_and_dashboard_say_the_same(
    server: Server, draft_dir: Path, prompts: list[list[int]], tmp_path: Path
) -> None:
    before = acceptance_of(server)
    with monitor(server, draft_dir) as process, prometheus(server, tmp_path) as prom:
        time.sleep(2)  # its first scrapes are before all traffic
        for prompt in prompts[:6]:
            server.complete(prompt, 64)
        assert process.poll() is None, "the traffic took longer than the interval"
        counted = acceptance_of(server) - before
        out, err = process.communicate()
        assert process.returncode == 0, err
        found = json.loads(out)
        window = found["window"]
        assert window["num_rounds"] == counted.num_drafts > 50
        assert window["acceptance_length"] == pytest.approx(counted.acceptance_length)
        assert window["tokens_per_s"] == pytest.approx(6 * 64 / INTERVAL_S, rel=0.1)
        assert found["advice"]["action"] == "leave"
        assert "on held-out text" in found["advice"]["sentence"]
        # Both have seen all of the traffic, and nothing else: ratios are the same whatever the window.
        for name in ("acceptance_length", "wasted_share"):
            assert prom.value(f"vllm_mtp:{name}:rate5m") == pytest.approx(window[name], rel=1e-6), name
        for position, rate in enumerate(window["acceptance_rate_per_position"]):
            query = f'vllm_mtp:acceptance_rate_per_position:rate5m{{position="{position}"}}'
            assert prom.value(query) == pytest.approx(rate, rel=1e-6)
        check_dashboard(prom)


def check_dashboard(prom: Prometheus) -> None:
    """Every query has data, as Grafana would ask it."""
    queries = dashboard_queries()
    for query in queries:
        if query.startswith("label_values("):
            selector, label = query.removeprefix("label_values(").removesuffix(")").split(", ")
            assert all(one[label] for one in prom.series(selector))
            continue
        asked = query.replace("$__rate_interval", "5m").replace("$model_name", ".*").replace("$instance", ".*")
        values = [float(one["value"][1]) for one in prom.ask(asked)]
        assert values, query
        assert all(value >= 0 for value in values), query
    assert len(queries) > 10
