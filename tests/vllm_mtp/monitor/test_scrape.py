"""Catches: a URL that is taken in one spelling only, another service's metrics taken for a server without load."""

import pytest

from tests.vllm_mtp.monitor.cases import METRICS
from vllm_mtp.monitor.scrape import ACCEPTED_PER_POSITION, DRAFTS, RUNNING, TOKENS, metrics_url, parse, scrape


@pytest.mark.parametrize("url", ["host:8000", "http://host:8000", "http://host:8000/", "http://host:8000/metrics"])
def test_a_server_is_named_in_any_way(url: str) -> None:
    assert metrics_url(url) == "http://host:8000/metrics"


def test_counters_of_a_real_server() -> None:
    found = parse(METRICS.read_text(), "url")
    [(engine, counters)] = found.counters.items()
    assert engine == ("target", "0")
    assert counters[TOKENS, 0] == 6 * 64
    accepted = [counters[ACCEPTED_PER_POSITION, position] for position in range(3)]
    assert counters[DRAFTS, 0] > accepted[0] > accepted[1] > accepted[2] > 0
    assert found.gauges[RUNNING] == 0


@pytest.mark.parametrize("text", ["python_info 1.0\n", "", "<html>no metrics</html>\n"])
def test_what_is_no_vllm_server_is_refused(text: str) -> None:
    with pytest.raises(ConnectionError, match="url: expected"):
        parse(text, "url")


def test_an_unreachable_server_is_one_line() -> None:
    with pytest.raises(ConnectionError, match=r"expected the metrics of a vLLM server, got none \(.*refused\)"):
        scrape("http://127.0.0.1:9/metrics", 5)
