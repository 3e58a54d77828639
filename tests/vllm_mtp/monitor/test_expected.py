"""Catches: a comparison with a drafter that was never measured, a figure that was told and is passed over."""

import json
from pathlib import Path

import pytest

from vllm_mtp.common.errors import InputError
from vllm_mtp.monitor.config import MonitorConfig
from vllm_mtp.monitor.expected import expected_of

HELD_OUT = {"loss": 1.0, "agreement_per_position": [0.6], "overlap_per_position": [0.5], "positions": 100}


def draft_with(folder: Path, **measured: object) -> Path:
    (folder / "run_info.json").write_text(json.dumps({"held_out": HELD_OUT | measured}))
    return folder


def test_the_held_out_figure_of_a_drafter(tmp_path: Path) -> None:
    draft = draft_with(tmp_path, acceptance_length=2.0, acceptance_length_95=[1.9, 2.1])
    found = expected_of(MonitorConfig(), draft)
    assert found is not None
    assert (found.low, found.num_speculative_tokens) == (1.9, 3)
    assert found.text == "2.00 (1.90 to 2.10) on held-out text"
    told = expected_of(MonitorConfig(expected_length=2.3), draft)
    assert told is not None
    assert (told.low, told.num_speculative_tokens) == (2.3, None)
    assert expected_of(MonitorConfig(), None) is None


def test_a_drafter_that_was_not_measured_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"found none in .*"):
        expected_of(MonitorConfig(), tmp_path)
    with pytest.raises(InputError, match="Give --expected-length"):
        expected_of(MonitorConfig(), draft_with(tmp_path))
