"""The table of vLLM versions is what was kept of their runs, and a name that a vLLM lacks is found by reading it.

Catches: a page that was edited by hand or not made again, an import of ours that the oldest version has not.
"""

import zipfile
from pathlib import Path

import pytest

from tests.serving.matrix import BEGIN, END, PAGE, kept_rows, read, table
from tests.serving.vllm_source import Source, imported_by_us


def test_the_page_is_made_from_the_results() -> None:
    rows = kept_rows()
    shown = PAGE.read_text("utf-8").partition(BEGIN)[2].partition(END)[0]
    assert shown.strip() == table(rows)
    assert [row["version"] for row in rows if row["missing"] or row.get("failed")] == []


def test_a_wheel_is_read(tmp_path: Path) -> None:
    wheel = tmp_path / "vllm-9.1.0-cp38-abi3-linux_x86_64.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("vllm/__init__.py", 'MODULES = {"LLM": ".entrypoints"}\n')
        file.writestr("vllm/distributed/__init__.py", "from .communication import *\n")
        file.writestr("vllm/distributed/communication.py", "def gather(): ...\n")
        file.writestr("vllm/config/speculative.py", "class C:\n    draft_sample_method: str\n")
    source = Source(wheel)
    wanted = {("vllm", "LLM"), ("vllm", "distributed"), ("vllm.distributed", "gather"), ("vllm.distributed", "scatter")}
    assert source.missing(wanted | {("vllm.platforms", "x")}) == ["vllm.distributed.scatter", "vllm.platforms.x"]
    assert source.features() == ["sampled drafts"]
    row = read(wheel)
    assert (row["version"], row["how"]) == ("9.1.0", "read")
    assert "vllm.model_executor.layers.attention.Attention" in row["missing"]


@pytest.mark.vllm
def test_the_installed_vllm_has_every_name() -> None:
    """Which the other tests would find too; here, that reading finds what is there."""
    import vllm

    assert Source(Path(vllm.__file__).parent).missing(imported_by_us()) == []
