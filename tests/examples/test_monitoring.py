"""The shipped Prometheus rules and Grafana dashboard; `tests/serving/test_monitor.py` has them on a real server.

Catches: a metric that vLLM does not have, a rule that Prometheus does not take, an alert that never fires.
"""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.vllm_mtp.monitor.cases import METRICS

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "monitoring"
ALERTS = Path(__file__).with_name("monitoring_alerts.yml")
MADE_BY_PROMETHEUS = {"up"}


def rules() -> list[dict[str, str]]:
    groups = yaml.safe_load((FOLDER / "rules.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def dashboard_queries() -> list[str]:
    dashboard = json.loads((FOLDER / "dashboard.json").read_text())
    variables = [one["query"] for one in dashboard["templating"]["list"] if one["type"] == "query"]
    return variables + [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


@pytest.mark.parametrize("query", [*(rule["expr"] for rule in rules()), *dashboard_queries()])
def test_every_metric_is_one_that_a_server_has(query: str) -> None:
    served = set(re.findall(r"^(vllm:\w+)", METRICS.read_text(), re.MULTILINE))
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    asked = set(re.findall(r"\b(?:vllm|vllm_mtp):[\w:]+|\bup\b", query))
    assert asked
    assert asked <= served | recorded | MADE_BY_PROMETHEUS


def test_panels_have_places_of_their_own() -> None:
    panels = json.loads((FOLDER / "dashboard.json").read_text())["panels"]
    assert len({(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}) == len(panels) > 5
    assert len({panel["id"] for panel in panels}) == len(panels)


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed (Debian's prometheus)")
def test_prometheus_takes_the_rules_and_alerts_fire(tmp_path: Path) -> None:
    shutil.copy(FOLDER / "rules.yml", tmp_path)
    shutil.copy(ALERTS, tmp_path)
    for words in (["check", "rules", "rules.yml"], ["test", "rules", ALERTS.name]):
        result = subprocess.run(["promtool", *words], cwd=tmp_path, capture_output=True, text=True)
        assert result.returncode == 0, result.stdout + result.stderr
