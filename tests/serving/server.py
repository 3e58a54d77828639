"""A real OpenAI server on the loopback interface, started as the documentation says."""

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from vllm_mtp.benchmarks.serving.server import free_port, stop

MAX_START_S, MAX_REQUEST_S = 600, 240
CHAT_TEMPLATE = "{% for message in messages %}# {{ message.content }}\n{% endfor %}"


@dataclass(kw_only=True, slots=True)
class Server:
    process: subprocess.Popen[bytes]
    url: str
    client: httpx.Client
    log: Path

    def tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-60:])

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + MAX_START_S
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                pytest.fail(f"the server ended with status {self.process.returncode} at start:\n{self.tail()}")
            try:
                if self.client.get("/health", timeout=5).status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.5)
        pytest.fail(f"the server did not start within {MAX_START_S} s:\n{self.tail()}")

    def post(self, path: str, request: dict[str, Any]) -> dict[str, Any]:
        response = self.client.post(f"/v1/{path}", json={"model": "target", **request})
        assert response.status_code == 200, f"{response.text}\n{self.tail()}"
        content: dict[str, Any] = response.json()
        return content

    def stream(self, path: str, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The chunks of a streamed response."""
        request = {"model": "target", "stream": True, "stream_options": {"include_usage": True}, **request}
        with self.client.stream("POST", f"/v1/{path}", json=request) as response:
            assert response.status_code == 200
            events = [line.removeprefix("data: ") for line in response.iter_lines() if line]
        assert events.pop() == "[DONE]"
        yield from (json.loads(event) for event in events)

    def complete(self, prompt: list[int], max_tokens: int, **sampling: Any) -> list[int]:
        """Token ids that follow a prompt."""
        request = {"prompt": prompt, "max_tokens": max_tokens, "ignore_eos": True, "return_token_ids": True}
        [choice] = self.post("completions", {**request, "temperature": 0, **sampling})["choices"]
        ids: list[int] = choice["token_ids"]
        return ids

    def metric(self, name: str) -> float:
        """A counter or gauge of /metrics by its name without `vllm:`, summed over its labels."""
        pattern = rf"vllm:{name}(?:{{.*}})? (\S+)"
        lines = self.client.get("/metrics").text.splitlines()
        return sum(float(match[1]) for line in lines if (match := re.fullmatch(pattern, line)))


def living_processes(group: int) -> list[str]:
    """State lines of the processes of a group, without those that have ended and wait to be collected."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it may end while we look
            line = path.read_text()
            state, _parent, its_group = line.rpartition(")")[2].split()[:3]
            if int(its_group) == group and state not in "ZX":
                lines.append(line)
    return lines


@contextmanager
def served(
    target_dir: Path, folder: Path, arguments: Sequence[str], port: int | None = None, **environment: str
) -> Iterator[Server]:
    """Serves the target as "target", in float32, eagerly, until the context ends.

    Args:
        target_dir: the target.
        folder: an existing one, for the log and the chat template.
        arguments: further ones of `vllm serve`; of an option that is here too, the later one counts.
        port: to listen on; None: a free one.
        environment: variables beside those of this process.
    """
    port = free_port() if port is None else port
    url = f"http://127.0.0.1:{port}"
    (folder / "chat.jinja").write_text(CHAT_TEMPLATE)
    command = [str(Path(sys.executable).parent / "vllm"), "serve", str(target_dir)]
    command += ["--served-model-name", "target", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--dtype", "float32", "--enforce-eager", "--max-model-len", "512", "--max-num-seqs", "8"]
    command += ["--chat-template", str(folder / "chat.jinja"), *arguments]
    environment = os.environ | environment
    environment.pop("VLLM_ENABLE_V1_MULTIPROCESSING", None)
    with (
        (folder / "server.log").open("wb") as log,
        httpx.Client(base_url=url, timeout=MAX_REQUEST_S, trust_env=False) as client,
    ):
        process = subprocess.Popen(
            command, env=environment, cwd=folder, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            server = Server(process=process, url=url, client=client, log=folder / "server.log")
            server.wait_until_ready()
            yield server
        finally:
            stop(process)
