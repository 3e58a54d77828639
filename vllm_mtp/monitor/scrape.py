"""What a server has counted, read from its /metrics."""

import http.client
import time
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

TOKENS = "vllm:generation_tokens_total"
LATENCY_SUM_S = "vllm:inter_token_latency_seconds_sum"
LATENCY_COUNT = "vllm:inter_token_latency_seconds_count"
DRAFTS = "vllm:spec_decode_num_drafts_total"
DRAFT_TOKENS = "vllm:spec_decode_num_draft_tokens_total"
ACCEPTED_PER_POSITION = "vllm:spec_decode_num_accepted_tokens_per_pos_total"
RUNNING, WAITING = "vllm:num_requests_running", "vllm:num_requests_waiting"
_COUNTERS = (TOKENS, LATENCY_SUM_S, LATENCY_COUNT, DRAFTS, DRAFT_TOKENS, ACCEPTED_PER_POSITION)
_GAUGES = (RUNNING, WAITING)

Counter = tuple[str, int]
"""Name of a counter, and its draft position; 0 for counters that have none."""
Engine = tuple[str, str]
"""Labels of an engine: model_name and engine."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scrape:
    """A server at one moment."""

    time_s: float
    """Of a clock that only goes forward."""
    counters: Mapping[Engine, Mapping[Counter, float]]
    """Of every engine, since it started."""
    gauges: Mapping[str, float]
    """Over all engines together."""


def metrics_url(url: str) -> str:
    """The address of a server's metrics: `host:8000`, `http://host:8000` and the whole address are all taken."""
    address = url if "://" in url else f"http://{url}"
    return address if address.endswith("/metrics") else f"{address.rstrip('/')}/metrics"


def scrape(url: str, timeout_s: float) -> Scrape:
    """Reads a server's metrics.

    Raises:
        ConnectionError: for a server that does not answer, or not with vLLM's metrics.
        ValueError: where prometheus-client is not installed.
    """
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as answer:
            text = answer.read().decode("utf-8", "replace")
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = error if isinstance(error, urllib.error.HTTPError) else getattr(error, "reason", error)
        raise ConnectionError(f"{url}: expected the metrics of a vLLM server, got none ({reason})") from error
    return parse(text, url)


def parse(text: str, url: str) -> Scrape:
    """Takes a text of Prometheus' format apart; what `scrape` raises of it, it raises too."""
    try:
        from prometheus_client.parser import text_string_to_metric_families
    except ImportError as error:
        raise ValueError("expected prometheus-client, found none: pip install 'vllm-mtp[monitor]'") from error
    counters: dict[Engine, dict[Counter, float]] = defaultdict(dict)
    gauges = dict.fromkeys(_GAUGES, 0.0)
    try:
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    except ValueError as error:
        raise ConnectionError(f"{url}: expected Prometheus' text format, got something else ({error})") from error
    for sample in samples:
        if sample.name in _COUNTERS:
            engine = sample.labels.get("model_name", ""), sample.labels.get("engine", "")
            counters[engine][sample.name, int(sample.labels.get("position", 0))] = sample.value
        elif sample.name in _GAUGES:
            gauges[sample.name] += sample.value
    if not any((TOKENS, 0) in of_engine for of_engine in counters.values()):
        raise ConnectionError(f"{url}: expected {TOKENS} among the metrics, found none: is this a vLLM server?")
    return Scrape(time_s=time.monotonic(), counters=counters, gauges=gauges)
