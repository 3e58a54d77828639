"""The child of engine.py: builds one `vllm.LLM` and answers requests, one JSON line each, until its input ends."""

import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vllm_mtp.benchmarks.harness.acceptance import Acceptance
from vllm_mtp.serving import cpu_repairs

_COUNTERS = {
    "num_drafts": "vllm:spec_decode_num_drafts",
    "num_draft_tokens": "vllm:spec_decode_num_draft_tokens",
    "num_accepted_tokens_per_position": "vllm:spec_decode_num_accepted_tokens_per_pos",
}
_PER_REQUEST = "per_request_spec_decode_metrics"
_MIB = 1024**2


def serve(requests: Any, replies: Any) -> None:
    """Builds the engine of the first line, says that it is ready, then answers one line a request."""

    def reply(message: dict[str, Any]) -> None:
        replies.write(json.dumps(message) + "\n")

    start = time.perf_counter()
    engine_args = json.loads(requests.readline())
    from vllm import LLM

    per_request = _per_request_metrics(engine_args)
    llm = LLM(**per_request, **engine_args, disable_log_stats=False)
    # The drafter has vLLM's CPU sampler repaired when it is built; its rivals are measured with the same one.
    cpu_repairs.apply_where_needed()
    reply({"seconds_to_start": round(time.perf_counter() - start, 1), "per_request_metrics": bool(per_request)})
    for line in requests:
        request = json.loads(line)
        if request.get("ask") == "memory":
            reply({"peak_memory_mib": _peak_memory_mib()})
        else:
            reply({"results": measure(llm, request, lambda number: reply({"progress": number}))})


def _per_request_metrics(engine_args: dict[str, Any]) -> dict[str, str]:
    """The setting by which each output carries its own rounds; empty where this vLLM has none, or nothing drafts."""
    from vllm import EngineArgs

    known = {field.name for field in dataclasses.fields(EngineArgs)}
    if engine_args.get("speculative_config") is None or _PER_REQUEST not in known or _PER_REQUEST in engine_args:
        return {}
    return {_PER_REQUEST: "detailed"}


def measure(llm: Any, request: dict[str, Any], on_progress: Callable[[int], object]) -> list[dict[str, Any]]:
    """What `EngineProcess.measure` asks for."""
    prompts, size = request["prompts"], max(1, request["batch_size"])
    results: list[dict[str, Any]] = []
    for start in range(0, len(prompts), size):
        seed = request["seed"] + start
        results += _measure_batch(llm, prompts[start : start + size], seed, request, on_progress)
    return results


def _measure_batch(
    llm: Any, prompts: Sequence[Sequence[int]], seed: int, request: dict[str, Any], on_progress: Callable[[int], object]
) -> list[dict[str, Any]]:
    import numpy as np
    import torch
    from vllm import SamplingParams

    # One seed for the batch, of the engine's own process: a generator per request ends vLLM's CPU runner as soon as a
    # prompt is read in parts ("CPU Generator does not use offset").
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)  # from which vLLM's V2 runner draws the seeds of requests
    params = SamplingParams(
        temperature=request["temperature"],
        max_tokens=request["max_tokens"],
        ignore_eos=request["ignore_eos"],
        detokenize=False,
    )
    before = counters(llm) if len(prompts) == 1 else None
    inputs = [{"prompt_token_ids": ids} for ids in prompts]
    show: Any = False if len(prompts) == 1 else lambda *args, **kwargs: _ProgressLines(on_progress, *args, **kwargs)
    start = time.perf_counter()
    outputs = llm.generate(inputs, params, use_tqdm=show)
    seconds = time.perf_counter() - start
    results = []
    for output in outputs:
        result = {
            "token_ids": list(output.outputs[0].token_ids),
            "finish_reason": output.outputs[0].finish_reason,
            "seconds": seconds / len(prompts),
            "seconds_to_first_token": getattr(getattr(output, "metrics", None), "first_token_latency", None),
        }
        results.append(result | acceptance_of(llm, output.outputs[0], before))
    if len(prompts) == 1:
        on_progress(1)
    return results


def acceptance_of(llm: Any, completion: Any, before: dict[str, Any] | None) -> dict[str, Any]:
    """One output's rounds and counts: its own, or what the engine's counters grew by if it ran alone."""
    metrics = getattr(completion, "spec_decode_metrics", None)
    if metrics is not None:
        rounds = list(zip(metrics.per_step_drafted, metrics.per_step_accepted, strict=True))
        counts = dataclasses.asdict(Acceptance.of_rounds(rounds, metrics.num_spec_tokens))
        return {"rounds": rounds, **counts}
    if before is None:
        return {"rounds": None, **dict.fromkeys(_COUNTERS)}
    after = counters(llm)
    per_position = zip(
        after["num_accepted_tokens_per_position"], before["num_accepted_tokens_per_position"], strict=True
    )
    return {
        "rounds": None,
        "num_drafts": after["num_drafts"] - before["num_drafts"],
        "num_draft_tokens": after["num_draft_tokens"] - before["num_draft_tokens"],
        "num_accepted_tokens_per_position": [new - old for new, old in per_position],
    }


def counters(llm: Any) -> dict[str, Any]:
    """vLLM's counts since the start of the engine; none for an engine that does not draft."""
    metrics = {metric.name: metric for metric in llm.get_metrics()}
    per_position = metrics.get(_COUNTERS["num_accepted_tokens_per_position"])
    found = {key: getattr(metrics.get(name), "value", 0) for key, name in _COUNTERS.items()}
    return found | {"num_accepted_tokens_per_position": list(per_position.values) if per_position else []}


def _peak_memory_mib() -> int:
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated() // _MIB)
    # Not getrusage: its ru_maxrss begins with what the parent had when it started this process.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM:"))


class _Nowhere:
    """A file that forgets what is written to it."""

    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None:
        pass


class _ProgressLines(tqdm):
    """What `LLM.generate` takes for a progress bar: shows nothing, and passes on how many outputs were finished."""

    def __init__(self, on_progress: Callable[[int], object], *args: Any, **kwargs: Any) -> None:
        # The same kind of bar is also made while prompts are read in.
        self._on_progress = on_progress if kwargs.get("desc") == "Processed prompts" else None
        super().__init__(*args, **kwargs | {"file": _Nowhere()})

    def update(self, n: float | None = 1) -> bool | None:
        if self._on_progress is not None and n:
            self._on_progress(int(n))
        shown: bool | None = super().update(n)
        return shown


if __name__ == "__main__":
    # vLLM logs to standard output; replies need a channel of their own.
    reply_stream = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    serve(sys.stdin, reply_stream)
