"""A vLLM engine in a process of its own, measured one prompt at a time, so that several can be measured in turn.

The parent (`EngineProcess`) sends one JSON line a request and gets one back. Engines that wait cost no processor time,
so a whole set can be started at once and interleaved pass by pass: a machine that changes its speed changes it for all.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_COUNTERS = {
    "num_drafts": "vllm:spec_decode_num_drafts",
    "num_draft_tokens": "vllm:spec_decode_num_draft_tokens",
    "num_accepted_tokens_per_position": "vllm:spec_decode_num_accepted_tokens_per_pos",
}


class EngineProcess:
    """Starts an engine; `wait_until_ready`, then any number of `measure`, then `close`.

    Args:
        engine_args: keyword arguments of `vllm.LLM`.
        log: file that gets all output of the engine.
    """

    def __init__(self, engine_args: dict[str, Any], log: Path) -> None:
        self.log = log
        environment = dict(os.environ)
        environment.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
        environment |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "HF_HUB_OFFLINE": "1", "VLLM_PLUGINS": "vllm_mtp"}
        # On a CPU vLLM 0.32 cannot load the ahead-of-time artefacts that it saves, and compiles anew; without them
        # torch's own cache of compiled graphs serves the second engine.
        environment.setdefault("VLLM_USE_AOT_COMPILE", "0")
        with log.open("w") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "vllm_mtp.benchmarks.engine"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
                env=environment,
            )
        self._send(engine_args)

    def wait_until_ready(self) -> dict[str, Any]:
        """Waits for the engine to be built.

        Returns:
            What the engine says of itself: seconds to start, versions.

        Raises:
            RuntimeError: with the end of its log, if the engine did not start.
        """
        return self._receive()

    def measure(
        self, prompts: Sequence[Sequence[int]], *, max_tokens: int, temperature: float, seed: int
    ) -> list[dict[str, Any]]:
        """Generates exactly max_tokens tokens for each prompt, one after another.

        Returns:
            For each prompt: `token_ids`, `seconds`, and the counts of `vllm_mtp.acceptance.Acceptance`.
        """
        request = {"prompts": [list(ids) for ids in prompts], "max_tokens": max_tokens}
        self._send(request | {"temperature": temperature, "seed": seed})
        results: list[dict[str, Any]] = self._receive()["results"]
        return results

    def generate(self, prompts: Sequence[Sequence[int]], *, max_tokens: int) -> list[list[int]]:
        """Greedy output for all prompts in one batch: token ids, max_tokens of them for each prompt."""
        self._send({"prompts": [list(ids) for ids in prompts], "max_tokens": max_tokens, "batched": True})
        outputs: list[list[int]] = self._receive()["outputs"]
        return outputs

    def close(self) -> None:
        """Ends the process; its engine is gone with it."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _send(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise RuntimeError(self._died()) from None

    def _receive(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(self._died())
        reply: dict[str, Any] = json.loads(line)
        return reply

    def _died(self) -> str:
        tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])
        return f"a vLLM engine ended (exit status {self._process.wait()}); the end of {self.log}:\n{tail}"


def serve(requests: Any, replies: Any) -> None:
    """The child's loop: builds the engine of the first line, then answers one line a request."""
    start = time.perf_counter()
    engine_args = json.loads(requests.readline())
    from vllm import LLM

    llm = LLM(**engine_args, disable_log_stats=False)
    ready = {"seconds_to_start": round(time.perf_counter() - start, 1)}
    replies.write(json.dumps(ready) + "\n")
    for line in requests:
        request = json.loads(line)
        reply = {"outputs": _generate(llm, request)} if request.get("batched") else {"results": _measure(llm, request)}
        replies.write(json.dumps(reply) + "\n")


def _generate(llm: Any, request: dict[str, Any]) -> list[list[int]]:
    from vllm import SamplingParams

    params = SamplingParams(temperature=0, max_tokens=request["max_tokens"], ignore_eos=True, detokenize=False)
    prompts = [{"prompt_token_ids": ids} for ids in request["prompts"]]
    return [list(output.outputs[0].token_ids) for output in llm.generate(prompts, params, use_tqdm=False)]


def _measure(llm: Any, request: dict[str, Any]) -> list[dict[str, Any]]:
    from vllm import SamplingParams

    results = []
    before = _counters(llm)
    for number, ids in enumerate(request["prompts"]):
        params = SamplingParams(
            temperature=request["temperature"],
            max_tokens=request["max_tokens"],
            seed=request["seed"] + number,
            ignore_eos=True,
            detokenize=False,
        )
        start = time.perf_counter()
        [output] = llm.generate([{"prompt_token_ids": ids}], params, use_tqdm=False)
        seconds = time.perf_counter() - start
        after = _counters(llm)
        counts = {
            "num_drafts": after["num_drafts"] - before["num_drafts"],
            "num_draft_tokens": after["num_draft_tokens"] - before["num_draft_tokens"],
            "num_accepted_tokens_per_position": [
                new - old
                for new, old in zip(
                    after["num_accepted_tokens_per_position"], before["num_accepted_tokens_per_position"], strict=True
                )
            ],
        }
        before = after
        results.append({"token_ids": list(output.outputs[0].token_ids), "seconds": seconds} | counts)
    return results


def _counters(llm: Any) -> dict[str, Any]:
    metrics = {metric.name: metric for metric in llm.get_metrics()}
    per_position = metrics.get(_COUNTERS["num_accepted_tokens_per_position"])
    found = {key: getattr(metrics.get(name), "value", 0) for key, name in _COUNTERS.items()}
    return found | {"num_accepted_tokens_per_position": list(per_position.values) if per_position else []}


if __name__ == "__main__":
    # vLLM logs to standard output; replies need a channel of their own.
    reply_stream = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    serve(sys.stdin, reply_stream)
