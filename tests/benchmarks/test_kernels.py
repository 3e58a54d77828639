"""`vllm-mtp bench kernels` on a CPU: the same code as on a GPU, on shapes of a test.

Catches: a provider that computes something else than the others, a row that says how fast a run was that failed, a
floor in another unit, a command that no longer runs.
"""

import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from vllm_mtp.benchmarks import kernel_cases_linear_kl
from vllm_mtp.benchmarks.kernel_case import KernelCase, Run
from vllm_mtp.benchmarks.kernels import bench, measure
from vllm_mtp.benchmarks.kernels_config import KernelsConfig
from vllm_mtp.benchmarks.kernels_plot import point, roof
from vllm_mtp.cli import main

CPU = torch.device("cpu")
CEILINGS = {"bytes_per_second": 1e9, "flops_per_second": 1e12}


@pytest.mark.slow
def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "kernels", "--output", str(tmp_path), "--seconds", "0.01", "--device", "cpu"]) == 0
    result = json.loads((tmp_path / "kernels.json").read_text("utf-8"))
    assert result["size"] == "smoke"
    assert result["ceilings"]["bytes_per_second"] > 1e6
    kernels = {row["kernel"] for row in result["rows"]}
    assert {"linear_kl", "linear_kl, mean embedding kept"} <= kernels
    for kernel in kernels:
        rows = {row["provider"]: row for row in result["rows"] if row["kernel"] == kernel}
        assert rows["eager"]["speedup_over_eager"] == 1
        assert rows["vllm-mtp"]["time_us"] > 0
    assert (tmp_path / "kernels.png").exists() == (find_spec("matplotlib") is not None)
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
        ({"kernels": ("softmax",)}, "kernels: expected some of linear_kl, draft_head, .*, got 'softmax'"),
        ({"seconds": 0.0}, "seconds: expected a positive number, got 0.0"),
    ],
)
def test_what_cannot_be(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KernelsConfig(**fields)  # type: ignore[arg-type]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="device: expected a GPU for cuda, found none"):
        bench(KernelsConfig(device="cuda"), output=tmp_path, command="")
