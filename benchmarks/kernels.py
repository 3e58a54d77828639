"""`vllm-mtp bench kernels`: time and memory of every kernel beside eager, torch.compile and others, and the floor.

The floor of a case is what this very device needed, in this very run, for the bytes or the multiplications that cannot
be avoided, whichever takes longer: a copy of a large tensor and a large matrix product are measured first. All who
compute a case get the same inputs, one after the other, with the cache swept before every run.

Writes kernels.json, table.md and kernels.png.
"""

import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from vllm_mtp.benchmarks import kernel_cases_draft_head, kernel_cases_embed_hidden_projection, kernel_cases_linear_kl
from vllm_mtp.benchmarks.acceptance_table import markdown
from vllm_mtp.benchmarks.kernel_case import KernelCase
from vllm_mtp.benchmarks.kernels_config import KernelsConfig
from vllm_mtp.benchmarks.kernels_plot import plot
from vllm_mtp.benchmarks.kernels_timing import measure_run, times, why
from vllm_mtp.benchmarks.provenance import provenance
from vllm_mtp.kernels.registration import uses_triton

_CASES = {
    "linear_kl": kernel_cases_linear_kl.cases,
    "draft_head": kernel_cases_draft_head.cases,
    "embed_hidden_projection": kernel_cases_embed_hidden_projection.cases,
}


def bench(config: KernelsConfig, *, output: Path, command: str) -> int:
    """Measures, writes the three files and prints the table.

    Raises:
        ValueError: if a GPU is asked for, and there is none.
    """
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device: expected a GPU for cuda, found none; leave it out, or take cpu")
    cuda = torch.cuda.is_available() and config.device != "cpu"
    device = torch.device("cuda" if cuda else "cpu")
    size = config.size if config.size != "auto" else "full" if cuda else "smoke"
    ceilings = _ceilings(device, config.seconds)
    cases = [case for kernel in config.kernels for case in _CASES[kernel](size)]
    rows = [row for case in cases for row in measure(case, ceilings, device, config.seconds)]
    result = {
        **provenance(command),
        "device": device.type,
        "size": size,
        "implementation": "Triton" if uses_triton(device.type) else "plain PyTorch",
        "ceilings": ceilings,
        "rows": rows,
    }
    output.mkdir(parents=True, exist_ok=True)
    (output / "kernels.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    text = table(result)
    (output / "table.md").write_text(text, encoding="utf-8")
    plot(result, output / "kernels.png")
    print(text)
    return 0


def measure(
    case: KernelCase, ceilings: Mapping[str, float], device: torch.device, seconds: float
) -> list[dict[str, Any]]:
    """A row for each provider of a case; one that could not run says why."""
    floor = max(case.floor_bytes / ceilings["bytes_per_second"], case.floor_flops / ceilings["flops_per_second"])
    rows: list[dict[str, Any]] = []
    for name, run in case.providers(device).items():
        row: dict[str, Any] = {
            "kernel": case.kernel,
            "shape": dict(case.shape),
            "provider": name,
            "floor_flops": case.floor_flops,
            "floor_bytes": case.floor_bytes,
            "floor_us": 1e6 * floor,
        }
        if isinstance(run, str):
            rows.append({**row, "missing": run})
            continue
        try:
            measured = measure_run(run, device, seconds, in_graph=case.in_graph)
        except Exception as error:  # whatever another library or the compiler fails with, the others are measured
            rows.append({**row, "missing": why(error)})
            continue
        row |= measured
        row["share_of_floor"] = row["floor_us"] / row["time_us"]
        rows.append(row)
    eager = next((row for row in rows if row["provider"] == "eager" and "time_us" in row), None)
    for row in rows:
        if eager is not None and "time_us" in row:
            row["speedup_over_eager"] = eager["time_us"] / row["time_us"]
    return rows


def table(result: Mapping[str, Any]) -> str:
    """Markdown: what was measured, in which surroundings."""
    ceilings = result["ceilings"]
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    lines = [
        [
            row["kernel"],
            " ".join(f"{name} {number}" for name, number in row["shape"].items()),
            row["provider"],
            *(_cells(row) if "time_us" in row else [row["missing"], "", "", "", ""]),
        ]
        for row in result["rows"]
    ]
    names = ["kernel", "shape", "by", "time, us", "in a graph, us", "over eager", "of the floor", "peak memory, MiB"]
    smoke = ""
    if result["size"] == "smoke":
        smoke = "\n\nA smoke run: shapes of a test, whose times say nothing about real ones."
    return (
        f"{result['hardware']}, vllm-mtp in {result['implementation']}, {versions}. `{result['command']}`\n\n"
        f"Ceilings measured in the same run: copy {ceilings['bytes_per_second'] / 1e9:,.0f} GB/s, product "
        f"{ceilings['flops_per_second'] / 1e12:,.2f} TFLOP/s. Medians.{smoke}\n\n"
        f"{markdown(names, lines)}\n"
    )


def _cells(row: Mapping[str, Any]) -> list[str]:
    in_graph, memory = row.get("graph_time_us"), row["peak_memory_mib"]
    return [
        f"{row['time_us']:,.0f}",
        "" if in_graph is None else f"{in_graph:,.0f}",
        f"{row['speedup_over_eager']:.2f}x" if "speedup_over_eager" in row else "",
        f"{100 * row['share_of_floor']:.0f}%",
        "" if memory is None else f"{memory:,.0f}",
    ]


def _ceilings(device: torch.device, seconds: float) -> dict[str, float]:
    """What this device reaches now: bytes copied, read and written both counted, and bfloat16 products."""
    num_bytes, width = (2**30, 8192) if device.type == "cuda" else (2**26, 512)
    source = torch.ones(num_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copies = times(lambda: target.copy_(source), device, seconds)
    factor = torch.ones(width, width, dtype=torch.bfloat16, device=device)
    products = times(lambda: factor @ factor, device, seconds)
    return {
        "bytes_per_second": 2 * num_bytes / statistics.median(copies),
        "flops_per_second": 2 * width**3 / statistics.median(products),
    }
