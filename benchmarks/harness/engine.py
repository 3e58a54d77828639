"""A vLLM engine in a process of its own, so that several can be measured in turn.

The parent (`EngineProcess`) sends one JSON line a request and gets one back, after lines that tell progress. Engines
that wait cost no processor time, so a whole set can be started at once and interleaved: a machine that changes its
speed changes it for all. The child is engine_server.py.
"""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from vllm_mtp.benchmarks.harness.prompts import BenchmarkPrompt
from vllm_mtp.benchmarks.harness.record import Record, Request
from vllm_mtp.benchmarks.harness.rounds import Rounds, RoundsRequest


class EngineError(RuntimeError):
    """An engine's process ended: the message has the end of its log."""

    def __init__(self, message: str, log: Path) -> None:
        super().__init__(message)
        self.log = log
        """The engine's log, which tells it from others."""


class EngineProcess(contextlib.AbstractContextManager["EngineProcess"]):
    """Starts an engine; `wait_until_ready`, then any number of `measure`, then `close`: `with` does the first and last.

    Args:
        engine_args: keyword arguments of `vllm.LLM`.
        log: file that gets all output of the engine.
        environment: variables that replace this process's.
    """

    def __init__(self, engine_args: dict[str, Any], log: Path, environment: Mapping[str, str] | None = None) -> None:
        self.log = log
        self.per_request_metrics = False
        """Whether the engine tells the acceptance of each prompt of a batch; known when it is ready."""
        self.peak_memory_mib = 0
        """After a measurement: the process's largest resident set, or on a GPU the most that torch allocated there."""
        self._answered = True
        self._prompts: Sequence[BenchmarkPrompt] | None = None
        with log.open("w") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "vllm_mtp.benchmarks.harness.engine_server"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
                env=_environment(engine_args) | dict(environment or {}),
            )
        self._send(engine_args)

    def __enter__(self) -> "EngineProcess":
        try:
            self.wait_until_ready()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def wait_until_ready(self) -> float:
        """Waits for the engine to be built.

        Returns:
            The seconds that it took, the import of vLLM included.

        Raises:
            EngineError: if the engine did not start.
        """
        ready = self._receive()
        self.per_request_metrics = ready["per_request_metrics"]
        return float(ready["seconds_to_start"])

    def measure(self, request: Request, on_progress: Callable[[int], object] | None = None) -> list[Record]:
        """A record for each prompt; on_progress is called with the number of prompts that have just been finished."""
        self._send(asdict(request))
        reply = self._receive(on_progress)
        self.peak_memory_mib = reply["peak_memory_mib"]
        return [Record(**record) for record in reply["results"]]

    def measure_rounds(self, request: RoundsRequest, on_progress: Callable[[int], object] | None = None) -> Rounds:
        """Generates until the request says stop; on_progress is called with the number of outputs just ended."""
        message = {field.name: getattr(request, field.name) for field in fields(request)}
        was_sent, self._prompts = self._prompts is request.prompts, request.prompts
        self._send(message | {"prompts": None if was_sent else list(map(asdict, request.prompts))})
        reply = self._receive(on_progress)
        self.peak_memory_mib = reply["peak_memory_mib"]
        return Rounds.of(reply["results"])

    def warm_up(self, request: Request) -> None:
        """Compiles and allocates what a request needs, on a few of its prompts read backwards.

        Suffix drafting remembers what it generated, and must not know the prompts when they are measured.
        """
        few = request.prompts[: max(2, request.batch_size)]
        backwards = [replace(prompt, token_ids=prompt.token_ids[::-1]) for prompt in few]
        self.measure(replace(request, prompts=backwards, max_tokens=32))

    def close(self) -> None:
        """Ends the process; its engine is gone with it. One that still works on a request is not waited for."""
        if not self._answered:
            self._process.terminate()
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _send(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._answered = False
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._died() from None

    def _receive(self, on_progress: Callable[[int], object] | None = None) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            reply: dict[str, Any] = json.loads(line)
            if "progress" not in reply:
                self._answered = True
                return reply
            if on_progress is not None:
                on_progress(reply["progress"])
        raise self._died()

    def _died(self) -> EngineError:
        tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])
        status = self._process.wait()
        return EngineError(f"a vLLM engine ended (exit status {status}); the end of {self.log}:\n{tail}", self.log)


def can_compile() -> bool:
    """Whether torch.compile will work in an engine: on a CPU it needs a C++ compiler."""
    import torch

    from vllm_mtp.training.loss.compiled import has_cpp_compiler

    return torch.cuda.is_available() or has_cpp_compiler()


def _environment(engine_args: Mapping[str, Any]) -> dict[str, str]:
    environment = dict(os.environ)
    environment.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    # No other plugin is loaded, such as the one that comes with the package for suffix decoding: that package is used
    # by vLLM itself, its plugin replaces parts of vLLM.
    environment |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_PLUGINS": "vllm_mtp"}
    if Path(str(engine_args["model"])).is_dir():
        environment["HF_HUB_OFFLINE"] = "1"
    # N-gram drafting runs on numba, which takes every core whatever OpenMP is limited to: such an engine was 1.2 times
    # as fast as with the one thread that every other method had, and 20 times slower where the cores were not free.
    if "OMP_NUM_THREADS" in environment:
        environment.setdefault("NUMBA_NUM_THREADS", environment["OMP_NUM_THREADS"].partition(",")[0])
    # On a CPU vLLM 0.32 cannot load the ahead-of-time artefacts that it saves, and compiles anew; without them torch's
    # own cache of compiled graphs serves the second engine.
    environment.setdefault("VLLM_USE_AOT_COMPILE", "0")
    return environment
