"""A server with drafter and lookup under load, killed, and started again.

Catches: a request that is lost, that hangs or that gets a token twice, another's answer in a batch of many, requests
that are cancelled and keep their blocks, memory that grows with every request, counters that do not add up, an engine
that leaves processes or a port behind when it is killed.

A minute by default. For ten, with the figures that are committed:

    MTP_LOAD_SECONDS=600 MTP_LOAD_OUTPUT=benchmarks/results/load/load.json \\
        .venv/bin/python -m pytest --extended tests/serving/test_load.py
"""

import asyncio
import contextlib
import itertools
import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.serving.engine import engine, greedy
from tests.serving.load import (
    MAX_SILENCE_S,
    MAX_TOKENS,
    Outcome,
    Sample,
    counters,
    plan,
    run_load,
    slope_mib_per_minute,
)
from tests.serving.server import Server, living_processes, served
from vllm_mtp.benchmarks.serving.server import MAX_STOP_S, free_port
from vllm_mtp.common.files import compact_json, write_atomically
from vllm_mtp.common.provenance import provenance

pytestmark = [pytest.mark.vllm, pytest.mark.slow, pytest.mark.extended, pytest.mark.alone]

LOAD_SECONDS = float(os.environ.get("MTP_LOAD_SECONDS", "60"))
OUTPUT = os.environ.get("MTP_LOAD_OUTPUT")
NUM_CLIENTS, MAX_NUM_SEQS = 32, 16
NUM_SPECULATIVE_TOKENS = 3
MAX_MODEL_LEN = 1024
# Of 128 tokens each: too few for sixteen of the longest requests, so that some are preempted.
NUM_BLOCKS = 28
PROMPT_LENGTHS = (2, 16, 64, 200, 600)
# oneDNN keeps what it compiled for every number of rows, 1,024 of them by default: without a bound memory grows for as
# long as there are new ones, with a drafter and without (320 MiB in ten minutes were seen).
ENVIRONMENT = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "32"}
# Allocators fill in the first minute (55 MiB were seen): that memory is flat, a longer run has to show.
MAX_GROWTH_MIB = 48 if LOAD_SECONDS >= 300 else 128
MAX_SAMPLE_GAP_S = 0.5
Start = Callable[[Path], AbstractContextManager[Server]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """A load that is over."""

    outcomes: Sequence[Outcome]
    samples: Sequence[Sample]
    counters: dict[str, float]
    """Of /metrics, at rest after the load."""
    seconds: float

    @property
    def finished(self) -> list[Outcome]:
        """Of clients that stayed to the end."""
        return [outcome for outcome in self.outcomes if not outcome.was_cancelled]

    @property
    def growth_mib(self) -> float:
        """Over the last two thirds of the time, in which slopes are taken."""
        return slope_mib_per_minute(self.samples) * self.seconds / 60 * 2 / 3


def serve_arguments(drafter: Path) -> list[str]:
    """Of `vllm serve`, beside those that `served` gives."""
    drafting = {"model": str(drafter), "num_speculative_tokens": NUM_SPECULATIVE_TOKENS}
    return [
        *("--speculative-config", json.dumps(drafting), "--generation-config", "vllm"),
        *("--max-model-len", str(MAX_MODEL_LEN), "--max-num-seqs", str(MAX_NUM_SEQS)),
        *("--max-num-batched-tokens", "256", "--num-gpu-blocks-override", str(NUM_BLOCKS)),
    ]


@pytest.fixture(scope="module")
def start(target_dir: Path, lookup_draft_dir: Path, answers: list[list[int]]) -> Start:
    """Starts the server by one and the same command, port included; asked with the folder for its log.

    It comes after `answers`, whose engine runs for a while in which another could take the port.
    """
    port = free_port()
    return lambda folder: served(target_dir, folder, serve_arguments(lookup_draft_dir), port, **ENVIRONMENT)


@pytest.fixture(scope="module")
def mixed_prompts(prompts: list[list[int]]) -> list[list[int]]:
    """Prompts of every length; the longer ones are several of the shipped prompts after one another."""
    text = itertools.cycle(itertools.chain.from_iterable(prompts))
    return [list(itertools.islice(text, length)) for length in PROMPT_LENGTHS for _ in range(5)]


@pytest.fixture(scope="module")
def answers(target_dir: Path, mixed_prompts: list[list[int]]) -> list[list[int]]:
    """What follows each prompt without a drafter."""
    with engine(target_dir, max_model_len=MAX_MODEL_LEN) as llm:
        return greedy(llm, mixed_prompts, MAX_TOKENS)


@pytest.fixture(scope="module")
def server(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with start(tmp_path_factory.mktemp("load")) as server:
        yield server


@pytest.fixture(scope="module")
def load(server: Server, mixed_prompts: list[list[int]], answers: list[list[int]]) -> Load:
    before = counters(server.client.get("/metrics").text)
    assert before.get("request_success_total", 0) == 0
    plans = [plan(client, mixed_prompts, answers) for client in range(NUM_CLIENTS)]
    start = time.monotonic()
    with sampling(server) as samples:
        outcomes = asyncio.run(ask_all(server, plans))
    seconds = time.monotonic() - start
    load = Load(outcomes=outcomes, samples=samples, counters=at_rest(server), seconds=seconds)
    if OUTPUT:
        Path(OUTPUT).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(Path(OUTPUT), compact_json(figures(load, server)))
    print(json.dumps(figures(load, server)["figures"], indent=1))
    return load


async def ask_all(server: Server, plans: Sequence[Iterator[Any]]) -> list[Outcome]:
    from openai import AsyncOpenAI

    timeout = httpx.Timeout(MAX_SILENCE_S)
    async with (
        # Not longer than the server keeps a connection that is idle, so that none is used that it is closing.
        httpx.AsyncClient(
            trust_env=False, timeout=timeout, limits=httpx.Limits(max_connections=None, keepalive_expiry=1)
        ) as http_client,
        AsyncOpenAI(
            base_url=f"{server.url}/v1",
            api_key="none",
            max_retries=0,
            timeout=timeout,
            http_client=http_client,
        ) as client,
    ):
        return await run_load(client, plans, LOAD_SECONDS)


@contextmanager
def sampling(server: Server) -> Iterator[list[Sample]]:
    """Looks at the server again and again, beside what else is done."""
    samples: list[Sample] = []
    is_over = threading.Event()
    start = time.monotonic()

    def look() -> None:
        with httpx.Client(base_url=server.url, timeout=MAX_SILENCE_S, trust_env=False) as client:
            while not is_over.wait(MAX_SAMPLE_GAP_S):
                found = counters(client.get("/metrics").text)
                samples.append(
                    Sample(
                        seconds=time.monotonic() - start,
                        memory_mib=memory_mib(server.process.pid),
                        running=found["num_requests_running"],
                        waiting=found["num_requests_waiting"],
                        kv_usage=found["kv_cache_usage_perc"],
                    )
                )

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield samples
    finally:
        is_over.set()
        thread.join()


def memory_mib(pid: int) -> float:
    """Resident memory of a process and its descendants."""
    import psutil

    process = psutil.Process(pid)
    total = 0
    for one in (process, *process.children(recursive=True)):
        try:
            total += one.memory_info().rss
        except psutil.NoSuchProcess:  # vLLM starts short helpers
            continue
    return total / 2**20


def at_rest(server: Server) -> dict[str, float]:
    """The counters as soon as nothing runs or waits, or after MAX_STOP_S as they are then."""
    deadline = time.monotonic() + MAX_STOP_S
    while True:
        found = counters(server.client.get("/metrics").text)
        is_busy = found["num_requests_running"] or found["num_requests_waiting"] or found["kv_cache_usage_perc"]
        if not is_busy or time.monotonic() > deadline:
            return found
        time.sleep(0.5)


def figures(load: Load, server: Server) -> dict[str, Any]:
    """What the committed file holds."""
    counted, finished = load.counters, load.finished
    greedy_ones = [outcome for outcome in finished if outcome.planned.expected is not None]
    first_s = sorted(o.seconds_to_first_chunk for o in finished if o.seconds_to_first_chunk is not None)
    accepted, drafts = (counted[f"spec_decode_num_{name}_total"] for name in ("accepted_tokens", "drafts"))
    found = {
        "seconds": round(load.seconds, 1),
        "num_clients": NUM_CLIENTS,
        "num_requests": len(load.outcomes),
        "num_cancelled": len(load.outcomes) - len(finished),
        "num_whole": sum(outcome.is_whole for outcome in finished),
        "num_errors": sum(outcome.error is not None for outcome in load.outcomes),
        "num_greedy": len(greedy_ones),
        "num_identical": sum(outcome.token_ids == outcome.planned.expected for outcome in greedy_ones),
        "output_tokens_per_s": round(counted["generation_tokens_total"] / load.seconds, 1),
        "seconds_to_first_token_median": round(first_s[len(first_s) // 2], 3),
        "seconds_to_first_token_95": round(first_s[int(len(first_s) * 0.95)], 3),
        "longest_silence_s": round(max(outcome.longest_silence_s for outcome in finished), 3),
        "acceptance_length": round(1 + accepted / drafts, 4),
        "num_preemptions": int(counted["num_preemptions_total"]),
        "most_running": int(max(sample.running for sample in load.samples)),
        "most_waiting": int(max(sample.waiting for sample in load.samples)),
        "most_kv_usage": round(max(sample.kv_usage for sample in load.samples), 3),
        "memory_mib_first_and_last": [round(load.samples[place].memory_mib, 1) for place in (0, -1)],
        "memory_slope_mib_per_minute": round(slope_mib_per_minute(load.samples), 3),
        "at_rest": {
            name: counted[name] for name in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc")
        },
    }
    words = [re.sub(r'/[^" ]*/', "", str(word)) for word in server.process.args]
    command = " ".join([*(f"{name}={value}" for name, value in ENVIRONMENT.items()), *words])
    return {"provenance": provenance(command), "figures": found}


def test_nothing_is_lost(load: Load) -> None:
    assert [outcome.error for outcome in load.outcomes if outcome.error] == []
    assert [outcome for outcome in load.finished if not outcome.is_whole] == []
    num_cancelled = len(load.outcomes) - len(load.finished)
    assert 0.05 < num_cancelled / len(load.outcomes) < 0.3, "the load is not the one that was meant"
    assert max(sample.waiting for sample in load.samples) > 0
    assert load.counters["num_preemptions_total"] > 0


def test_greedy_answers_are_the_targets_own(load: Load) -> None:
    wrong = [
        outcome
        for outcome in load.outcomes
        if outcome.planned.expected is not None
        and outcome.token_ids != outcome.planned.expected[: len(outcome.token_ids)]
    ]
    assert sum(outcome.planned.expected is not None for outcome in load.finished) > NUM_CLIENTS // 2
    assert wrong == [], "those of cancelled requests are their beginnings"


def test_counters_add_up(load: Load) -> None:
    found = load.counters
    assert (found["num_requests_running"], found["num_requests_waiting"], found["kv_cache_usage_perc"]) == (0, 0, 0)
    drafts, drafted, accepted, per_position = (
        found[f"spec_decode_num_{name}_total"]
        for name in ("drafts", "draft_tokens", "accepted_tokens", "accepted_tokens_per_pos")
    )
    assert 0 < accepted <= drafted <= NUM_SPECULATIVE_TOKENS * drafts
    assert accepted == per_position
    by_position = [
        found[f"spec_decode_num_accepted_tokens_per_pos_total[{position}]"]
        for position in range(NUM_SPECULATIVE_TOKENS)
    ]
    assert sorted(by_position, reverse=True) == by_position
    assert by_position[0] <= drafts
    # One for each request, but for those that were cancelled before their end: vLLM counts none for them.
    assert len(load.finished) <= found["request_success_total"] <= len(load.outcomes)
    assert found["request_success_total[length]"] == found["request_success_total"]
    assert found["generation_tokens_total"] >= sum(len(outcome.token_ids) for outcome in load.outcomes)


def test_memory_is_flat(load: Load) -> None:
    assert load.growth_mib < MAX_GROWTH_MIB


def test_the_next_answers_are_right(
    load: Load, server: Server, mixed_prompts: list[list[int]], answers: list[list[int]]
) -> None:
    for prompt, answer in list(zip(mixed_prompts, answers, strict=True))[::5]:
        assert server.complete(prompt, MAX_TOKENS) == answer


def test_killed_and_started_again(
    server: Server, start: Start, mixed_prompts: list[list[int]], answers: list[list[int]], tmp_path: Path
) -> None:
    """The last test of a server. The same command brings it back, whichever of its processes was killed."""
    kill_with_a_request_under_way(server, engine_core_of(server), mixed_prompts[0])
    with start(tmp_path) as second:
        assert second.complete(mixed_prompts[-1], MAX_TOKENS) == answers[-1]
        kill_with_a_request_under_way(second, second.process.pid, mixed_prompts[0])
    with start(tmp_path) as third:
        assert third.complete(mixed_prompts[-1], MAX_TOKENS) == answers[-1]


def engine_core_of(server: Server) -> int:
    import psutil

    children = psutil.Process(server.process.pid).children(recursive=True)
    [core] = [child.pid for child in children if any("EngineCore" in word for word in child.cmdline())]
    return core


def kill_with_a_request_under_way(server: Server, pid: int, prompt: list[int]) -> None:
    """Sends SIGKILL to one process of a server, and waits for its end; where it is the core, all of them must end."""
    request = {"model": "target", "stream": True, "prompt": prompt, "max_tokens": 900, "ignore_eos": True}
    with server.client.stream("POST", "/v1/completions", json=request) as response:
        lines = response.iter_lines()
        next(lines)
        os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(httpx.TransportError):
            list(lines)
    server.process.wait(MAX_STOP_S)  # with status 0 where its engine core was killed: vLLM takes that for an end
    if pid == server.process.pid:
        return
    deadline = time.monotonic() + MAX_STOP_S
    while left := living_processes(server.process.pid):
        assert time.monotonic() < deadline, f"left behind: {left}\n{server.tail()}"
        time.sleep(0.2)
