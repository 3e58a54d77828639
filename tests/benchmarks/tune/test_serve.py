"""What is printed to be typed is what vLLM and our command take."""

import json
import shlex
from pathlib import Path

import pytest

from tests.drafts import small_config, write_random_draft
from vllm_mtp.benchmarks.harness.draft_folder import lookup_of
from vllm_mtp.benchmarks.harness.method import NONE, OFF, mtp
from vllm_mtp.benchmarks.tune.serve import lookup_command, serve_command
from vllm_mtp.cli import main
from vllm_mtp.contract.lookup import Lookup


def test_the_line_of_vllm_serve() -> None:
    method = mtp(3, local_argmax=True, schedule=((1, 4, 3), (5, 16, 0)))
    line = serve_command(method, target="org/model", draft="my drafter", engine_args={"dtype": "float32"})
    words = shlex.split(line)
    assert words[:5] == ["vllm", "serve", "org/model", "--dtype", "float32"]
    assert words[5] == "--speculative-config"
    assert json.loads(words[6]) == {
        "method": "mtp",
        "model": "my drafter",
        "num_speculative_tokens": 3,
        "use_local_argmax_reduction": True,
        "num_speculative_tokens_per_batch_size": [[1, 4, 3], [5, 16, 0]],
    }
    assert serve_command(NONE, target="org/model", draft="d", engine_args={}) == "vllm serve org/model"


@pytest.mark.parametrize("chosen", [OFF, Lookup(module_steps=1), Lookup(min_match=3, max_match=4)])
def test_the_line_that_changes_lookup_does_so(chosen: Lookup | str, tmp_path: Path) -> None:
    draft = write_random_draft(tmp_path / "my drafter", small_config(lookup=Lookup().fields()))
    line = lookup_command(mtp(3, lookup=chosen), lookup_of(draft), str(draft))
    assert line is not None
    assert main(shlex.split(line)[1:]) == 0
    assert lookup_of(draft) == (None if chosen == OFF else chosen)
    assert lookup_command(mtp(3, lookup=chosen), lookup_of(draft), str(draft)) is None


def test_nothing_to_change_where_the_drafter_is_right_or_does_not_draft() -> None:
    assert lookup_command(mtp(3, lookup=Lookup()), Lookup(), "d") is None
    assert lookup_command(mtp(3, lookup=OFF), None, "d") is None
    assert lookup_command(NONE, Lookup(), "d") is None
