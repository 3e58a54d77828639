"""The child of engine.py: builds one `vllm.LLM` and answers requests, one JSON line each, until its input ends."""

import io
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vllm_mtp.benchmarks.harness.acceptance import Acceptance
from vllm_mtp.benchmarks.harness.prompts import BenchmarkPrompt
from vllm_mtp.benchmarks.harness.record import Record, Request
from vllm_mtp.benchmarks.harness.rounds import RoundsRequest
from vllm_mtp.benchmarks.harness.rounds_server import RoundsServer
from vllm_mtp.benchmarks.harness.scopes import name_parts_of_drafter
from vllm_mtp.serving import cpu_repairs

OnProgress = Callable[[int], object]
_COUNTER = "vllm:spec_decode_num_"
_PER_REQUEST = "per_request_spec_decode_metrics"
_MIB = 1024**2


def serve(requests: Any, replies: Any) -> None:
    """Builds the engine of the first line, says that it is ready, then answers one line a request."""

    def reply(message: dict[str, Any]) -> None:
        replies.write(json.dumps(message) + "\n")

    start = time.perf_counter()
    engine_args = json.loads(requests.readline())
    from vllm import LLM

    if "profiler_config" in engine_args:
        name_parts_of_drafter()
    per_request = _per_request_metrics(engine_args)
    llm = LLM(**per_request, **engine_args, disable_log_stats=False)
    # The drafter has vLLM's CPU sampler repaired when it is built; the baselines are measured with the same one.
    cpu_repairs.apply_where_needed()
    reply({"seconds_to_start": round(time.perf_counter() - start, 1), "per_request_metrics": bool(per_request)})
    rounds = RoundsServer(llm)
    prompts_of_rounds: list[BenchmarkPrompt] = []

    def answer(request: Request | RoundsRequest, on_progress: OnProgress) -> Any:
        if isinstance(request, RoundsRequest):
            return asdict(rounds.measure(request, on_progress))
        rounds.end()
        return [asdict(record) for record in measure(llm, request, on_progress)]

    for line in requests:
        message = json.loads(line)
        kind = RoundsRequest if "repeat" in message else Request
        prompts = [BenchmarkPrompt(**prompt) for prompt in message["prompts"] or ()]
        if kind is RoundsRequest:
            prompts = prompts_of_rounds = prompts or prompts_of_rounds  # none: those of the last such request
        found = answer(kind(**message | {"prompts": prompts}), lambda number: reply({"progress": number}))
        reply({"results": found, "peak_memory_mib": _peak_memory_mib()})


def _per_request_metrics(engine_args: dict[str, Any]) -> dict[str, str]:
    """The setting by which each output carries its own rounds; empty where this vLLM has none, or nothing drafts."""
    from vllm import EngineArgs

    known = {field.name for field in fields(EngineArgs)}
    if engine_args.get("speculative_config") is None or _PER_REQUEST not in known or _PER_REQUEST in engine_args:
        return {}
    return {_PER_REQUEST: "detailed"}


def measure(llm: Any, request: Request, on_progress: OnProgress) -> list[Record]:
    """What `EngineProcess.measure` asks for."""
    records: list[Record] = []
    if request.is_profiled:
        llm.start_profile()
    for start in range(0, len(request.prompts), request.batch_size):
        prompts = request.prompts[start : start + request.batch_size]
        records += _measure_batch(llm, replace(request, prompts=prompts, seed=request.seed + start), on_progress)
    if request.is_profiled:
        llm.stop_profile()
    return records


def _measure_batch(llm: Any, batch: Request, on_progress: OnProgress) -> list[Record]:
    import numpy as np
    import torch
    from vllm import SamplingParams

    # One seed for the batch, of the engine's own process: a generator per request ends vLLM's CPU runner as soon as a
    # prompt is read in parts ("CPU Generator does not use offset").
    torch.manual_seed(batch.seed)
    np.random.seed(batch.seed % 2**32)  # from which vLLM's V2 runner draws the seeds of requests
    params = SamplingParams(
        temperature=batch.temperature,
        top_p=batch.top_p,
        top_k=batch.top_k,
        max_tokens=batch.max_tokens,
        ignore_eos=batch.ignore_eos,
        detokenize=False,
    )
    alone = len(batch.prompts) == 1
    before = counters(llm) if alone else None
    inputs = [{"prompt_token_ids": list(prompt.token_ids)} for prompt in batch.prompts]
    show: Any = False if alone else lambda *args, **kwargs: _ProgressLines(on_progress, *args, **kwargs)
    start = time.perf_counter()
    outputs = llm.generate(inputs, params, use_tqdm=show)
    seconds = time.perf_counter() - start
    if alone:
        on_progress(1)
    return [
        Record(
            token_ids=list(output.outputs[0].token_ids),
            finish_reason=output.outputs[0].finish_reason,
            seconds=seconds / len(batch.prompts),
            seconds_to_first_token=getattr(getattr(output, "metrics", None), "first_token_latency", None),
            **acceptance_of(llm, output.outputs[0], before),
            number=prompt.number,
            category=prompt.category,
            task=prompt.task,
            turn=prompt.turn,
            num_prompt_tokens=len(prompt.token_ids),
        )
        for prompt, output in zip(batch.prompts, outputs, strict=True)
    ]


def acceptance_of(llm: Any, completion: Any, before: Acceptance | None) -> dict[str, Any]:
    """One output's rounds and counts: its own, or what the engine's counters grew by if it ran alone."""
    metrics = getattr(completion, "spec_decode_metrics", None)
    if metrics is not None:
        rounds = list(zip(metrics.per_step_drafted, metrics.per_step_accepted, strict=True))
        return {"rounds": rounds, **asdict(Acceptance.of_rounds(rounds, metrics.num_spec_tokens))}
    return {} if before is None else asdict(counters(llm) - before)


def counters(llm: Any) -> Acceptance:
    """vLLM's counts since the start of the engine; of no position for an engine that does not draft."""
    metrics = {metric.name: metric for metric in llm.get_metrics()}
    return Acceptance(
        num_drafts=getattr(metrics.get(f"{_COUNTER}drafts"), "value", 0),
        num_draft_tokens=getattr(metrics.get(f"{_COUNTER}draft_tokens"), "value", 0),
        num_accepted_tokens_per_position=tuple(
            getattr(metrics.get(f"{_COUNTER}accepted_tokens_per_pos"), "values", ())
        ),
    )


def _peak_memory_mib() -> int:
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated() // _MIB)
    # Not getrusage: its ru_maxrss begins with what the parent had when it started this process.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM:"))


class _ProgressLines(tqdm):
    """What `LLM.generate` takes for a progress bar: shows nothing, and passes on how many outputs were finished."""

    def __init__(self, on_progress: Callable[[int], object], *args: Any, **kwargs: Any) -> None:
        # The same kind of bar is also made while prompts are read in.
        self._on_progress = on_progress if kwargs.get("desc") == "Processed prompts" else None
        super().__init__(*args, **kwargs | {"file": io.StringIO()})

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
