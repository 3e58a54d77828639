"""The loop, on a loopback server that answers with a real server's text, counting up at each look.

Catches: a loop that ends where a server restarts, figures of one interval shown as those of all, JSON that is not one
line, a status that says nothing.
"""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import count, islice
from pathlib import Path
from threading import Thread

import pytest

from tests.vllm_mtp.monitor.cases import with_values
from tests.vllm_mtp.monitor.test_tuned import row, tuned_in
from vllm_mtp.monitor.config import MonitorConfig
from vllm_mtp.monitor.watch import looks, monitor

FAILING = 3
"""Looks after which the server fails once."""
CONFIG = MonitorConfig(interval=0.1, window=1000, min_rounds=150)


class Counting(BaseHTTPRequestHandler):
    """A hundred rounds more at each look, and an error instead of the fourth."""

    looks: Iterator[int]

    def do_GET(self) -> None:
        number = next(self.looks)
        self.send_response(503 if number == FAILING else 200)
        self.end_headers()
        names = [f"spec_decode_num_accepted_tokens_per_pos_total__{position}" for position in range(3)]
        accepted = {name: (60, 30, 10)[place] * number for place, name in enumerate(names)}
        drafted = {"spec_decode_num_drafts_total": 100 * number, "spec_decode_num_draft_tokens_total": 300 * number}
        self.wfile.write(with_values(generation_tokens_total=200 * number, **drafted, **accepted).encode())

    def log_message(self, *arguments: object) -> None:
        """Nothing."""


@pytest.fixture
def url() -> Iterator[str]:
    Counting.looks = count()
    with HTTPServer(("127.0.0.1", 0), Counting) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_looks_go_on_where_the_server_was_away(url: str) -> None:
    found = list(islice(looks(CONFIG, url=url, draft=None, tune=None, once=False), 4))
    assert [look.last.num_rounds for look in found] == [100, 100, 100, 200]
    assert [look.window.num_rounds for look in found] == [100, 200, 200, 400]
    assert [bool(look.trouble) for look in found] == [False, False, True, False]
    assert "503" in found[2].trouble
    assert [look.advice.action for look in found] == ["too few rounds", "leave", "leave", "leave"]
    assert found[-1].window.acceptance_length == 2.0


def test_a_window_forgets(url: str) -> None:
    config = MonitorConfig(interval=0.1, window=0.15)
    found = list(islice(looks(config, url=url, draft=None, tune=None, once=False), 2))
    assert [look.window.num_rounds for look in found] == [100, 100]


def test_once_prints_json_and_its_status_says_whether_to_act(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    config = MonitorConfig(interval=0.1, min_rounds=100, expected_length=2.5)
    assert monitor(config, url=url, draft=None, tune=None, once=True, as_json=True) == 1
    [line] = capsys.readouterr().out.splitlines()
    found = json.loads(line)
    assert found["advice"]["action"] == "retrain"
    assert found["last"] == found["window"]
    assert found["window"]["acceptance_rate_per_position"] == [0.6, 0.3, 0.1]


def test_the_screen_shows_the_figures(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    config = MonitorConfig(interval=0.1, min_rounds=100, round_cost=1.25)
    assert monitor(config, url=url, draft=None, tune=None, once=True, as_json=False) == 0
    shown = capsys.readouterr().out
    for text in ("acceptance length", "2.00 (1.8", "66.7%", "1.60x", "60.0%", "33.3%", "Leave it as it is"):
        assert text in shown


@pytest.mark.parametrize(("told", "gain"), [(None, 2.0 / 1.6), (1.25, 1.6)], ids=["measured", "told"])
def test_what_tune_measured_is_held_against_the_server(
    told: float | None, gain: float, url: str, tmp_path: Path
) -> None:
    tune = tuned_in(tmp_path, row(4, 3, 2.4, 1.6))
    config = MonitorConfig(interval=0.1, min_rounds=100, tolerance=0, round_cost=told)
    [look] = looks(config, url=url, draft=None, tune=tune, once=True)
    assert look.window.estimated_gain == pytest.approx(gain)
    assert look.advice.action == "retrain"
    assert "against 2.40 (2.30 to 2.50) when it was tuned" in look.advice.sentence
