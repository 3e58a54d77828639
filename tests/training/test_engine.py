"""What is said when vLLM does not start.

Catches: the heading of a list of faults without the faults.
"""

import json
import shutil
from pathlib import Path

import pytest

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
