"""`vllm-mtp bench tune-kernels`: entries of the static tables, measured on this GPU, ready to be pasted.

Every launch that a kernel's file names as worth trying is timed on the benchmark's shapes, beside the shipped entry;
the geometric mean over the shapes decides. A launch that does not compile or run is reported, and loses.

Writes table.md, with the entries, and results.json, with every time; nothing in the source tree.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from vllm_mtp.benchmarks.harness.report import Result, made_on, markdown, write_report
from vllm_mtp.benchmarks.kernels.config import KernelsConfig
from vllm_mtp.benchmarks.kernels.search import search
from vllm_mtp.benchmarks.kernels.timing import measure_run
from vllm_mtp.benchmarks.kernels.tunables import Tunable, tunables
from vllm_mtp.common.errors import InputError
from vllm_mtp.common.provenance import provenance, versions
from vllm_mtp.kernels.common.registration import uses_triton
from vllm_mtp.kernels.common.tables import Launch, architecture


def tune(config: KernelsConfig, *, output: Path, command: str) -> int:
    """Measures, writes both files and prints the first.

    Raises:
        ValueError: if there is no GPU, or its kernels are not Triton's.
    """
    if config.device == "cpu" or not torch.cuda.is_available():
        raise InputError("device", "expected a GPU, whose launches are to be timed; there is none, or it is cpu")
    if not uses_triton("cuda"):
        raise ValueError("expected the Triton kernels; unset VLLM_MTP_KERNELS, or install Triton")
    size = "full" if config.size == "auto" else config.size
    device = torch.device("cuda")
    result: dict[str, Any] = {**provenance(command), "architecture": architecture(device), "size": size, "rows": []}
    result["versions"] |= versions("triton")
    output.mkdir(parents=True, exist_ok=True)
    for row in tune_rows(config.kernels, size, device, config.seconds):
        print(f"{row['table']}, {row['bucket']}: {row['best']}, {_share(row)}", flush=True)
        result["rows"].append(row)
        write_report(result, output, table)
    print(table(result))
    return 0


def tune_rows(kernels: Sequence[str], size: str, device: torch.device, seconds: float) -> Iterator[dict[str, Any]]:
    """A row for each entry: what won, by how much, and all that was tried, launches as Python."""
    for tunable in tunables(kernels, size, device):
        yield _row(tunable, device, seconds)


def _row(tunable: Tunable, device: torch.device, seconds: float) -> dict[str, Any]:
    shipped = python(tunable.shipped)
    launches = {python(launch): launch for launch in (tunable.shipped, *tunable.candidates)}
    about = {"table": tunable.table, "bucket": tunable.bucket, "shapes": list(tunable.runs), "shipped": shipped}
    return about | search(shipped, launches, lambda name: _time_us(tunable, device, seconds, launches[name]))


def python(candidate: Launch) -> str:
    """A launch as it would stand in a table."""
    tiles = ", ".join(f'"{name}": {size}' for name, size in candidate.tiles.items())
    stages = f", num_stages={candidate.num_stages}" if candidate.num_stages != 1 else ""
    return f"Launch({{{tiles}}}, num_warps={candidate.num_warps}{stages})"


def table(result: Result) -> str:
    """Markdown: what won, what failed, and the entries."""
    lines = [
        [
            f"`{row['table']}`",
            str(row["bucket"]),
            _time_of(row, row["shipped"]),
            _time_of(row, row["best"]),
            _share(row),
            str(len(row["times_us"])),
        ]
        for row in result["rows"]
    ]
    names = ["table", "tokens", "shipped, us", "best, us", "best over shipped", "measured"]
    failures = [
        f"- `{row['table']}`, {row['bucket']}: `{candidate}`: {reason}"
        for row in result["rows"]
        for candidate, reason in row["failures"]
    ]
    return (
        f"{made_on(result)}; {result['architecture']}. `{result['command']}`\n\n"
        f"{markdown(names, lines)}\n\n"
        "Times are geometric means over the shapes of medians. A shipped entry stays unless another is 2% faster.\n\n"
        f"```python\n{entries(result['architecture'], result['rows'])}\n```"
        + ("\n\nThese did not run:\n\n" + "\n".join(failures) if failures else "")
    )


def entries(name: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Python to paste, by table: the architecture's entry, with its time over the shipped one's."""
    lines: list[str] = []
    for table in dict.fromkeys(row["table"] for row in rows):
        own = [row for row in rows if row["table"] == table]
        lines.append(f"# {table}")
        lines.append(f'"{name}": {{')
        for row in own:
            entry = "" if row["best"] is None else f"{row['bucket']}: {row['best']},  "
            lines.append(f"    {entry}# {_share(row)}")
        lines.append("},")
    return "\n".join(lines)


def _time_us(tunable: Tunable, device: torch.device, seconds: float, candidate: Launch) -> float:
    """The geometric mean over the shapes."""
    logarithms = []
    for run in tunable.runs.values():
        measured = measure_run(partial(run, candidate), device, seconds, in_graph=tunable.in_graph)
        if "graph_missing" in measured:
            raise RuntimeError(f"not in a graph: {measured['graph_missing']}")
        logarithms.append(math.log(measured.get("graph_time_us", measured["time_us"])))
    return math.exp(sum(logarithms) / len(logarithms))


def _time_of(row: Mapping[str, Any], candidate: str | None) -> str:
    return next((f"{microseconds:,.1f}" for name, microseconds in row["times_us"] if name == candidate), "")


def _share(row: Mapping[str, Any]) -> str:
    if row["best"] is None:
        return "nothing ran"
    return "the shipped one did not run" if row["ratio"] is None else f"{row['ratio']:.3f} of the shipped time"
