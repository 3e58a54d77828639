"""What `make demo` does the second time."""

import json
from pathlib import Path

from vllm_mtp.benchmarks.demo.stdlib import _dtype_of


def test_a_finished_drafter_keeps_its_dtype(tmp_path: Path) -> None:
    """Catches a demo that a probe of the processor, come out otherwise, makes refuse its own folder."""
    assert _dtype_of(tmp_path) is None
    (tmp_path / "run_info.json").write_text(json.dumps({"dtype": "bfloat16"}))
    assert _dtype_of(tmp_path) == "bfloat16"
