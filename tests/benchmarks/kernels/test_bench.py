"""`vllm-mtp bench kernels` on a CPU: the same code as on a GPU, on shapes of a test.

Catches: a provider that computes something else than the others, or is not compiled where it says so, a row that says
how fast a run was that failed, a failure that takes other rows with it, a floor in another unit, a command that no
longer runs.
"""

import json
import sys
from collections.abc import Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import cast

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from vllm_mtp.benchmarks.kernels import bench as kernels
from vllm_mtp.benchmarks.kernels import timing as kernels_timing
from vllm_mtp.benchmarks.kernels.bench import bench, measure, table
from vllm_mtp.benchmarks.kernels.case import KernelCase, Run
from vllm_mtp.benchmarks.kernels.cases import draft_head as kernel_cases_draft_head
from vllm_mtp.benchmarks.kernels.cases import embed_hidden_projection as kernel_cases_embed_hidden_projection
from vllm_mtp.benchmarks.kernels.cases import linear_kl as kernel_cases_linear_kl
from vllm_mtp.benchmarks.kernels.config import KernelsConfig
from vllm_mtp.benchmarks.kernels.plot import point, roof
from vllm_mtp.benchmarks.kernels.timing import elsewhere, measure_run
from vllm_mtp.cli import main

CPU = torch.device("cpu")
CEILINGS = {"bytes_per_second": 1e9, "flops_per_second": 1e12}


@pytest.mark.slow
def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "kernels", "--output", str(tmp_path), "--seconds", "0.01", "--device", "cpu"]) == 0
    result = json.loads((tmp_path / "results.json").read_text("utf-8"))
    assert result["size"] == "smoke"
    assert result["ceilings"]["bytes_per_second"] > 1e6
    kernels = {row["kernel"] for row in result["rows"]}
    assert {"linear_kl", "linear_kl, mean embedding kept"} <= kernels
    for kernel in kernels:
        rows = {row["provider"]: row for row in result["rows"] if row["kernel"] == kernel}
        assert rows["eager"]["speedup_over_eager"] == 1
        assert rows["vllm-mtp"]["time_us"] > 0
    assert (tmp_path / "plot.png").exists() == (find_spec("matplotlib") is not None)
    text = (tmp_path / "table.md").read_text("utf-8")
    assert text.strip() in capsys.readouterr().out
    assert "A smoke run" in text


def test_what_is_compared_computes_the_same() -> None:
    for case in kernel_cases_linear_kl.cases("smoke"):
        h_s = kernel_cases_linear_kl.make_inputs(CPU, *case.shape.values())[0]
        providers = case.providers(CPU)
        gradients = {}
        for name in ("eager", "vllm-mtp"):
            run = providers[name]
            assert callable(run)
            [leaf] = [cell.cell_contents for cell in run.__closure__ or () if _is_leaf(cell.cell_contents)]
            assert torch.equal(leaf, h_s)
            leaf.grad = None
            run()
            gradients[name] = leaf.grad.float()
        difference = gradients["vllm-mtp"] - gradients["eager"]
        assert difference.norm() < 0.05 * gradients["eager"].norm()


def _is_leaf(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.requires_grad


def test_a_provider_that_fails_says_why() -> None:
    def fails() -> None:
        raise RuntimeError("no such kernel\nand more")

    def providers(device: torch.device) -> Mapping[str, Run | str]:
        return {"eager": lambda: None, "one": fails, "other": "not installed"}

    rows = measure(KernelCase("nothing", {"tokens": 1}, 1000, 1000, providers), CEILINGS, CPU, 0.001)
    assert [row.get("missing") for row in rows] == [None, "RuntimeError: no such kernel", "not installed"]
    assert rows[0]["floor_us"] == pytest.approx(1.0)
    assert rows[0]["num_runs"] >= 3
    assert all(("time_us" in row) != ("missing" in row) for row in rows)


def test_a_case_that_cannot_be_set_up_is_one_row() -> None:
    def providers(device: torch.device) -> Mapping[str, Run | str]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    [row] = measure(KernelCase("nothing", {"tokens": 1}, 1000, 1000, providers), CEILINGS, CPU, 0.001)
    assert (row["provider"], row["missing"]) == ("all", "OutOfMemoryError: CUDA out of memory")


def test_a_run_that_is_in_no_graph_keeps_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GPU, there is nothing to capture."""
    for name in ("synchronize", "memory_allocated", "reset_peak_memory_stats", "max_memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, lambda: 0)

    def no_graph() -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(torch.cuda, "CUDAGraph", no_graph)
    monkeypatch.setattr(kernels_timing, "times", lambda *_: [1e-3])
    found = measure_run(lambda: None, torch.device("cuda"), 0.001, in_graph=True)
    assert found["time_us"] == 1000.0
    assert found["graph_missing"] == "RuntimeError: operation not permitted when stream is capturing"
    assert "graph_time_us" not in found


def test_figures_of_graphs_are_compared_with_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    times = [{"time_us": 40.0, "graph_time_us": 8.0}, {"time_us": 10.0, "graph_time_us": 4.0}, {"time_us": 5.0}]
    measured = iter(times)
    monkeypatch.setattr(kernels, "measure_run", lambda *_, **__: {**next(measured), "peak_memory_mib": None})
    case = KernelCase("nothing", {}, 10, 2000, lambda _: dict.fromkeys(("eager", "one", "other"), lambda: None))
    rows = measure(case, CEILINGS, CPU, 0.001)
    assert [row["share_of_floor"] for row in rows] == [0.05, 0.2, 0.4]
    assert [row["speedup_over_eager"] for row in rows] == [1.0, 4.0, 8.0]
    assert [row.get("graph_share_of_floor") for row in rows] == [0.25, 0.5, None]
    assert [row.get("graph_speedup_over_eager") for row in rows] == [1.0, 2.0, None]
    result = {"ceilings": CEILINGS, "versions": {}, "size": "full", "hardware": "", "implementation": "", "command": ""}
    text = table({**result, "rows": [*rows, {**rows[0], "time_us": 1234.0}]})
    assert "| one | 10.0 | 4.00x | 20% | 4.0 | 2.00x | 50% |  |" in text
    assert "| 1,234 |" in text
    assert len({line.count("|") for line in text.splitlines() if line.startswith("|")}) == 1


def test_what_was_measured_is_written_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second case ends the run: the first one's row is in both files."""

    def providers(device: torch.device) -> Mapping[str, Run | str]:
        raise KeyboardInterrupt

    first = KernelCase("first", {}, 10, 10, lambda _: {"eager": lambda: None})
    cases = [first, KernelCase("second", {}, 10, 10, providers)]
    monkeypatch.setattr(kernels, "_CASES", {"linear_kl": lambda size: cases})
    monkeypatch.setattr(kernels, "_ceilings", lambda *_: CEILINGS)
    with pytest.raises(KeyboardInterrupt):
        bench(KernelsConfig(device="cpu", kernels=("linear_kl",), seconds=0.001), output=tmp_path, command="")
    result = json.loads((tmp_path / "results.json").read_text("utf-8"))
    assert [row["kernel"] for row in result["rows"]] == ["first"]
    assert "| first |" in (tmp_path / "table.md").read_text("utf-8")
    assert ("triton" in result["versions"]) == (find_spec("triton") is not None)


@pytest.mark.parametrize(
    "cases", [kernel_cases_draft_head, kernel_cases_embed_hidden_projection, kernel_cases_linear_kl]
)
def test_every_shape_is_compiled(cases: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """More shapes than torch keeps versions of a function: it would run the last ones eager, under another name."""
    counter = CompileCounter()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=counter))
    shapes = [(tokens, 16, 32)[: len(cases.SHAPES["smoke"][0])] for tokens in (3, 4, 5)]
    monkeypatch.setitem(cases.SHAPES, "smoke", shapes)
    found = cases.cases("smoke")
    with torch._dynamo.config.patch(recompile_limit=1):
        for case in found:
            run = case.providers(CPU)["torch.compile"]
            assert callable(run)
            run()
    assert counter.frame_count == len(found)


def test_a_library_whose_import_fails_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(ModuleType):
        def __getattr__(self, name: str) -> object:
            raise RuntimeError("no driver\nand more")

    for name in ("liger_kernel.transformers", "fla.modules", "vllm.model_executor.layers.fused_embed_norm"):
        monkeypatch.setitem(sys.modules, name, Broken(name))
    on_a_gpu = cast(torch.Tensor, SimpleNamespace(is_cuda=True))
    for provider in (kernel_cases_linear_kl._liger, kernel_cases_linear_kl._fla):
        assert elsewhere(on_a_gpu, partial(provider, *[on_a_gpu] * 3)) == "RuntimeError: no driver"
    projection = partial(kernel_cases_embed_hidden_projection._vllm, *[on_a_gpu] * 6)
    assert elsewhere(on_a_gpu, projection) == "RuntimeError: no driver"


def test_a_row_stands_as_far_below_the_roof_as_it_is_from_its_floor() -> None:
    """In log-log, on both sides of the ridge: 1 TFLOP/s over 1 GB/s is 1,000 operations per byte."""
    for flops, num_bytes in ((10, 10_000), (10_000_000, 100)):
        case = KernelCase("nothing", {}, flops, num_bytes, lambda _: {"eager": lambda: None})
        [row] = measure(case, CEILINGS, CPU, 0.001)
        x, y = point(row)
        at, heights = roof([x], *CEILINGS.values())
        assert at[0] < x < at[-1]
        assert at[1] == 1000
        assert heights == [min(1e9 * corner, 1e12) for corner in at]
        assert y / min(1e9 * x, 1e12) == pytest.approx(row["share_of_floor"])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"size": "huge"}, "size: expected one of auto, smoke, quick, full, got 'huge'"),
        ({"device": "tpu"}, "device: expected one of auto, cpu, cuda, got 'tpu'"),
        ({"kernels": ("softmax",)}, "kernels: expected one of linear_kl, draft_head, .*, got 'softmax'"),
        ({"seconds": 0.0}, "seconds: expected a number above 0, got 0.0"),
    ],
)
def test_what_cannot_be(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KernelsConfig(**fields)  # type: ignore[arg-type]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="device: expected a GPU for cuda, found none"):
        bench(KernelsConfig(device="cuda"), output=tmp_path, command="")
