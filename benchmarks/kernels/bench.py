"""`vllm-mtp bench kernels`: time and memory of every kernel beside eager, torch.compile and others, and the floor.

The floor of a case is what this very device needed, in this very run, for the bytes or the multiplications that cannot
be avoided, whichever takes longer: a copy of a large tensor and a large matrix product are measured first. All who
compute a case get the same inputs, one after the other, with the cache swept before every run.

Writes results.json and table.md after every case, and plot.png.
"""

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from vllm_mtp.benchmarks.harness.report import Result, made_on, markdown, write_report
from vllm_mtp.benchmarks.kernels.case import KernelCase
from vllm_mtp.benchmarks.kernels.cases import draft_head, embed_hidden_projection, linear_kl
from vllm_mtp.benchmarks.kernels.config import KernelsConfig
from vllm_mtp.benchmarks.kernels.plot import plot
from vllm_mtp.benchmarks.kernels.timing import measure_run, times, why
from vllm_mtp.common.errors import InputError
from vllm_mtp.common.provenance import provenance, versions
from vllm_mtp.kernels.common.registration import uses_triton

_CASES = {
    "linear_kl": linear_kl.cases,
    "draft_head": draft_head.cases,
    "embed_hidden_projection": embed_hidden_projection.cases,
}


def bench(config: KernelsConfig, *, output: Path, command: str) -> int:
    """Measures, writes the three files and prints the table.

    Raises:
        ValueError: if a GPU is asked for, and there is none.
    """
    if config.device == "cuda" and not torch.cuda.is_available():
        raise InputError("device", "expected a GPU for cuda, found none; leave it out, or take cpu")
    cuda = torch.cuda.is_available() and config.device != "cpu"
    device = torch.device("cuda" if cuda else "cpu")
    size = config.size if config.size != "auto" else "full" if cuda else "smoke"
    ceilings = _ceilings(device, config.seconds)
    cases = [case for kernel in config.kernels for case in _CASES[kernel](size)]
    result: dict[str, Any] = {
        **provenance(command),
        "device": device.type,
        "size": size,
        "implementation": "Triton" if uses_triton(device.type) else "plain PyTorch",
        "ceilings": ceilings,
        "rows": [],
    }
    result["versions"] |= versions("triton", "liger-kernel", "flash-linear-attention", "fla-core")
    output.mkdir(parents=True, exist_ok=True)
    for case in cases:
        result["rows"] += measure(case, ceilings, device, config.seconds)
        write_report(result, output, table)
    print(write_report(result, output, table, plot))
    return 0


def measure(
    case: KernelCase, ceilings: Mapping[str, float], device: torch.device, seconds: float
) -> list[dict[str, Any]]:
    """A row for each provider of a case; one that could not run says why."""
    floor = max(case.floor_bytes / ceilings["bytes_per_second"], case.floor_flops / ceilings["flops_per_second"])
    of_case = {
        "kernel": case.kernel,
        "shape": dict(case.shape),
        "floor_flops": case.floor_flops,
        "floor_bytes": case.floor_bytes,
        "floor_us": 1e6 * floor,
    }
    try:
        providers = case.providers(device)
    except Exception as error:  # such as inputs that do not fit into memory
        return [{**of_case, "provider": "all", "missing": why(error)}]
    rows: list[dict[str, Any]] = []
    for name, run in providers.items():
        row: dict[str, Any] = {**of_case, "provider": name}
        try:
            row |= (
                {"missing": run} if isinstance(run, str) else measure_run(run, device, seconds, in_graph=case.in_graph)
            )
        except Exception as error:  # whatever another library or the compiler fails with, the others are measured
            row |= {"missing": why(error)}
        rows.append(row)
    eager = next((row for row in rows if row["provider"] == "eager"), {})
    for row in rows:
        for prefix in ("", "graph_"):
            time = f"{prefix}time_us"
            if time in row:
                row[f"{prefix}share_of_floor"] = row["floor_us"] / row[time]
            if time in row and time in eager:
                row[f"{prefix}speedup_over_eager"] = eager[time] / row[time]
    return rows


def table(result: Result) -> str:
    """Markdown: what was measured, in which surroundings."""
    ceilings = result["ceilings"]
    lines = [
        [
            row["kernel"],
            " ".join(f"{name} {number}" for name, number in row["shape"].items()),
            row["provider"],
            *(_cells(row) if "time_us" in row else [row["missing"], *[""] * 6]),
        ]
        for row in result["rows"]
    ]
    names = ["kernel", "shape", "by", "time, us", "over eager", "of the floor"]
    names += ["in a graph, us", "over eager in one", "of the floor", "peak memory, MiB"]
    smoke = ""
    if result["size"] == "smoke":
        smoke = "\n\nA smoke run: shapes of a test, whose times say nothing about real ones."
    return (
        f"{made_on(result)}; vllm-mtp in {result['implementation']}. `{result['command']}`\n\n"
        f"Ceilings measured in the same run: copy {ceilings['bytes_per_second'] / 1e9:,.0f} GB/s, product "
        f"{ceilings['flops_per_second'] / 1e12:,.2f} TFLOP/s. Medians.{smoke}\n\n"
        f"{markdown(names, lines)}"
    )


def _cells(row: Mapping[str, Any]) -> list[str]:
    memory = row["peak_memory_mib"]
    times_of = [cell for prefix in ("", "graph_") for cell in _time_cells(row, prefix)]
    return [*times_of, "" if memory is None else f"{memory:,.0f}"]


def _time_cells(row: Mapping[str, Any], prefix: str) -> list[str]:
    """Time, over eager, of the floor."""
    time, speedup = row.get(f"{prefix}time_us"), row.get(f"{prefix}speedup_over_eager")
    if time is None:
        return [row.get(f"{prefix}missing", ""), "", ""]
    return [
        f"{time:,.1f}" if time < 100 else f"{time:,.0f}",
        "" if speedup is None else f"{speedup:.2f}x",
        f"{100 * row[f'{prefix}share_of_floor']:.0f}%",
    ]


def _ceilings(device: torch.device, seconds: float) -> dict[str, float]:
    """What this device reaches now: bytes copied, read and written both counted, and bfloat16 products."""
    num_bytes, width = (2**30, 8192) if device.type == "cuda" else (2**26, 512)
    source = torch.ones(num_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copies = times(lambda: target.copy_(source), device, seconds)
    # Of random numbers, as the cases have them: ones cost a GPU less power, and it multiplies them faster.
    factor = torch.randn(width, width, generator=torch.Generator(device).manual_seed(0), device=device).bfloat16()
    products = times(lambda: factor @ factor, device, seconds)
    return {
        "bytes_per_second": 2 * num_bytes / statistics.median(copies),
        "flops_per_second": 2 * width**3 / statistics.median(products),
    }
