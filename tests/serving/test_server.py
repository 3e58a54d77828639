"""A real OpenAI server, started by the documented command on the loopback interface, with a drafter.

Catches: a plugin that is not found in the server's own processes, counters in /metrics that say something else than
ours, streamed chunks that lose or repeat a token when several are accepted at once, a sampled request that kills the
engine (stock vLLM on a CPU dies of top_k), a server that does not stop.
"""

import json
import re
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.serving.engine import acceptance, engine, greedy
from tests.serving.server import Server, living_processes, served
from vllm_mtp.benchmarks.harness.acceptance import Acceptance
from vllm_mtp.benchmarks.serving.server import MAX_STOP_S

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

NUM_SPECULATIVE_TOKENS = 3
NUM_PROMPTS = 6
SPECULATIVE = "vllm:spec_decode_num_"


def acceptance_of(server: Server) -> Acceptance:
    """From the counters in /metrics."""
    counts = {}
    for line in server.client.get("/metrics").text.splitlines():
        if match := re.fullmatch(rf"{SPECULATIVE}(\w+)_total{{(.*)}} (\S+)", line):
            name, labels, value = match.groups()
            position = re.search(r'position="(\d+)"', labels)
            counts[name, int(position[1]) if position else None] = int(float(value))
    return Acceptance(
        num_drafts=counts["drafts", None],
        num_draft_tokens=counts["draft_tokens", None],
        num_accepted_tokens_per_position=tuple(
            counts["accepted_tokens_per_pos", position] for position in range(NUM_SPECULATIVE_TOKENS)
        ),
    )


def drafting(form: str, draft_dir: Path) -> list[str]:
    if form == "short flags":
        return ["--spec-method", "mtp", "--spec-model", str(draft_dir), "--spec-tokens", str(NUM_SPECULATIVE_TOKENS)]
    fields = {"model": str(draft_dir), "num_speculative_tokens": NUM_SPECULATIVE_TOKENS}
    return ["--speculative-config", json.dumps(fields)]


@pytest.fixture(scope="module", params=["short flags", pytest.param("JSON", marks=pytest.mark.extended)])
def server(
    request: pytest.FixtureRequest, target_dir: Path, draft_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    with served(target_dir, folder, drafting(request.param, draft_dir)) as server:
        yield server


@pytest.fixture(autouse=True)
def log_of_a_failed_test(server: Server) -> Iterator[None]:
    """pytest shows what is printed here with a test that failed."""
    yield
    print(server.tail())


@pytest.fixture(scope="module")
def in_process(
    target_dir: Path, draft_dir: Path, prompts: list[list[int]], plain_outputs: list[list[int]]
) -> Acceptance:
    """Our figures for the first prompts."""
    with engine(target_dir, draft_dir, NUM_SPECULATIVE_TOKENS) as llm:
        greedy(llm, prompts[:NUM_PROMPTS], len(plain_outputs[0]))
        return acceptance(llm)


def test_completions_and_counters(
    server: Server, prompts: list[list[int]], plain_outputs: list[list[int]], in_process: Acceptance
) -> None:
    before = acceptance_of(server)
    for prompt, expected in zip(prompts[:NUM_PROMPTS], plain_outputs, strict=False):
        assert server.complete(prompt, len(expected)) == expected
    assert acceptance_of(server) == before + in_process
    assert in_process.acceptance_length > 1.2


REQUESTS = {
    "completions": {"prompt": "import os\nimport sys\n\n\ndef main(", "max_tokens": 50, "temperature": 0},
    "chat/completions": {
        "messages": [{"role": "user", "content": "Write a function."}],
        "max_tokens": 50,
        "temperature": 0,
        "ignore_eos": True,
    },
}


def text_of(choice: dict[str, Any]) -> str:
    """The text of a response's or a chunk's choice."""
    part = choice if "text" in choice else choice.get("message") or choice["delta"]
    return part.get("text") or part.get("content") or ""


@pytest.mark.parametrize("path", REQUESTS)
def test_streamed_chunks_join_to_the_whole(server: Server, path: str) -> None:
    whole = server.post(path, REQUESTS[path])
    [choice] = whole["choices"]
    chunks = list(server.stream(path, REQUESTS[path]))
    assert text_of(choice)
    assert "".join(text_of(choice) for chunk in chunks for choice in chunk["choices"]) == text_of(choice)
    for count in ("prompt_tokens", "completion_tokens"):
        assert chunks[-1]["usage"][count] == whole["usage"][count]
    # Drafting shows: fewer chunks than tokens, since a round's tokens come together.
    assert len(chunks) - 1 < whole["usage"]["completion_tokens"]


def test_sampled_requests_leave_the_server_alive(
    server: Server, prompts: list[list[int]], plain_outputs: list[list[int]]
) -> None:
    kinds: list[dict[str, Any]] = [
        {"temperature": 0},
        {"temperature": 0.7, "top_k": 20},
        {"temperature": 0.7, "top_p": 0.8},
        {"temperature": 1.0, "top_k": 20, "top_p": 0.8, "seed": 1},
        {"temperature": 1.0},
    ]
    for kind in kinds:
        assert len(server.complete(prompts[0], 40, **kind)) == 40
    with ThreadPoolExecutor(len(kinds)) as pool:
        together = list(pool.map(lambda kind: server.complete(prompts[0], 40, **kind), kinds * 2))
    assert together[0] == together[len(kinds)] == plain_outputs[0][:40]
    assert server.client.get("/health").status_code == 200


def test_cancelled_request_leaves_no_trace(
    server: Server, prompts: list[list[int]], plain_outputs: list[list[int]]
) -> None:
    request = {"model": "target", "stream": True, "prompt": prompts[1], "max_tokens": 400, "ignore_eos": True}
    with server.client.stream("POST", "/v1/completions", json=request) as response:
        next(response.iter_lines())
    assert server.complete(prompts[1], 40) == plain_outputs[1][:40]


def test_stops_cleanly(server: Server) -> None:
    """The last test of a server."""
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(MAX_STOP_S) == 0
    deadline = time.monotonic() + MAX_STOP_S
    while left := living_processes(server.process.pid):
        assert time.monotonic() < deadline, f"left behind: {left}\n{server.tail()}"
        time.sleep(0.2)
