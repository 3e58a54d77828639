"""How vLLM is started, and what is said when it does not start.

Catches: the heading of a list of faults without the faults; workers that inherit a CUDA which they cannot use.
"""

import json
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from vllm_mtp.common.engine_options import EngineOptions
from vllm_mtp.training.engine import vllm_engine


@pytest.mark.vllm
def test_the_reason_of_a_config_that_vllm_refuses(target_dir: Path, tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(target_dir / name, tmp_path / name)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": ["RWForCausalLM"]}))
    refused = pytest.raises(ValueError, match=r"does not start with .*ValidationError: .*RWForCausalLM")
    with refused, vllm_engine(str(tmp_path), EngineOptions()):
        pass


@pytest.mark.parametrize(
    ("has_gpu", "given", "expected"), [(True, "", "spawn"), (True, "fork", "fork"), (False, "", "")]
)
def test_workers_on_gpus_are_not_forked(
    has_gpu: bool, given: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever asked torch for a GPU before vLLM was imported has initialized the driver: a forked worker fails."""
    name, seen = "VLLM_WORKER_MULTIPROC_METHOD", []

    def no_engine(**_: Any) -> None:
        seen.append(os.environ.get(name, ""))
        raise OSError

    monkeypatch.setenv(name, given)
    if not given:
        monkeypatch.delenv(name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(LLM=no_engine))
    with pytest.raises(ValueError, match="does not start"), vllm_engine("target", EngineOptions()):
        pass
    assert seen == [expected]
