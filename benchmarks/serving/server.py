"""vLLM's OpenAI server in a process of its own, on the loopback interface."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

VLLM = (sys.executable, "-m", "vllm.entrypoints.cli.main")
MAX_STOP_S = 60


class ServerError(Exception):
    """A server that ended; its log says why."""


def flags(arguments: Mapping[str, Any]) -> list[str]:
    """Keyword arguments of `vllm.LLM` as words of `vllm serve`; the model is first."""
    words = [str(arguments["model"])]
    for name, value in arguments.items():
        flag = name.replace("_", "-")
        if name == "model":
            continue
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words += [f"--{flag}", json.dumps(value) if isinstance(value, dict | list | tuple) else str(value)]
    return words


@contextmanager
def serving(arguments: Mapping[str, Any], log: Path) -> Iterator[str]:
    """Serves until the context ends; gives the server's URL when it answers.

    Args:
        arguments: of `vllm.LLM`.
        log: file for what the server says.

    Raises:
        ServerError: if it does not start.
    """
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [*VLLM, "serve", *flags(arguments), "--host", "127.0.0.1", "--port", str(port)]
    with log.open("wb") as file, _ended_by_sigterm():
        process = subprocess.Popen(
            command, env=environment(), stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            while not _answers(url):
                if process.poll() is not None:
                    raise ServerError(f"vllm serve ended with status {process.returncode}; its log is {log}")
                time.sleep(0.5)
            yield url
        finally:
            stop(process)


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """SIGTERM ends this program as an exception would: it passes by what ends the server, which has a group of its own.

    Not where the signal is ignored, or somebody else's already; nor beside the main thread, which alone gets signals.
    """

    def leave(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    is_ours = (
        threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    )
    if is_ours:
        signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        if is_ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def environment() -> dict[str, str]:
    """Of vLLM's processes: no plugin but ours, and on a CPU a KV cache of 1 GiB where nothing is said."""
    direct = ",".join(filter(None, (os.environ.get("no_proxy", os.environ.get("NO_PROXY")), "127.0.0.1")))
    found = {**os.environ, "VLLM_PLUGINS": "vllm_mtp", "NO_PROXY": direct, "no_proxy": direct}
    found.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    found.pop("VLLM_ENABLE_V1_MULTIPROCESSING", None)
    return found


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _answers(url: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{url}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def stop(process: "subprocess.Popen[bytes]") -> None:
    """Ends a process that leads a group, in good order where it can, and then whatever is left of the group.

    vLLM 0.32 leaves its engine core behind, for minutes at least, where the server was killed.
    """
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(MAX_STOP_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
