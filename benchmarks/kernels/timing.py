"""How long a run takes; on a GPU by its own clock, with the L2 cache swept before every run."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from vllm_mtp.benchmarks.kernels.case import Run

_SWEPT_BYTES = 256 * 2**20  # more than any L2 cache


def measure_run(run: Run, device: torch.device, seconds: float, *, in_graph: bool) -> dict[str, Any]:
    """Time of a run, and the most memory that it had beyond what was there before; a CPU does not tell.

    A run that cannot be captured in a graph says why, "graph_missing", beside its time without one.
    """
    run()  # compiles, and is not counted
    memory = None
    if device.type == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        torch.cuda.synchronize()
        memory = (torch.cuda.max_memory_allocated() - before) / 2**20
    seconds_each = times(run, device, seconds)
    row: dict[str, Any] = {
        "time_us": 1e6 * statistics.median(seconds_each),
        "fastest_us": 1e6 * min(seconds_each),
        "slowest_us": 1e6 * max(seconds_each),
        "num_runs": len(seconds_each),
        "peak_memory_mib": memory,
    }
    if in_graph and device.type == "cuda":
        try:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                run()
            row["graph_time_us"] = 1e6 * statistics.median(times(graph.replay, device, seconds))
        except Exception as error:
            row["graph_missing"] = why(error)
    return row


def times(run: Run, device: torch.device, seconds: float) -> list[float]:
    """Seconds of each of at least three runs."""
    found: list[float] = []
    started = time.perf_counter()
    if device.type == "cpu":
        while len(found) < 3 or time.perf_counter() - started < seconds:
            start = time.perf_counter()
            run()
            found.append(time.perf_counter() - start)
        return found
    swept = torch.empty(_SWEPT_BYTES, dtype=torch.uint8, device=device)
    while len(found) < 3 or time.perf_counter() - started < seconds:
        swept.zero_()
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        run()
        end.record()
        torch.cuda.synchronize()
        found.append(begin.elapsed_time(end) / 1000)
    return found


def elsewhere(tensor: torch.Tensor, make: Callable[[], Run]) -> Run | str:
    """What another library runs on a GPU, or why it cannot here."""
    if not tensor.is_cuda:
        return "needs a GPU"
    try:
        return make()
    except Exception as error:  # not installed, without what is asked, or whatever its import fails with here
        return why(error)


def why(error: Exception) -> str:
    """What failed, in a line."""
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}"
