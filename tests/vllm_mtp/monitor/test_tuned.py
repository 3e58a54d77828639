"""What `vllm-mtp tune` stored, as the monitor takes it.

Catches: the acceptance of another batch size expected, a gain told from the cost of another k, a folder of another
command taken for tune's.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.vllm_mtp.monitor.cases import traffic
from vllm_mtp.common.errors import InputError
from vllm_mtp.monitor.figures import Figures, figures_of
from vllm_mtp.monitor.tuned import Tuned


def row(batch_size: int, k: int, length: float, cost: float) -> dict[str, Any]:
    return {
        "batch_size": batch_size,
        "num_speculative_tokens": k,
        "tokens_per_round": length,
        "tokens_per_round_95": [length - 0.1, length + 0.1],
        "cost": cost,
    }


def tuned_in(folder: Path, *rows: dict[str, Any], for_batch_size: int = 4) -> Path:
    choice = {"for_batch_size": for_batch_size, "by_batch_size": rows}
    (folder / "results.json").write_text(json.dumps({"choice": choice}))
    return folder


def figures(num_running: int, drafted: int) -> Figures:
    """Of a hundred rounds of `drafted` tokens each."""
    return figures_of(replace(traffic(100, 60, 30, 10, num_draft_tokens=100 * drafted), num_running=num_running), None)


def test_what_was_tuned_for_is_expected(tmp_path: Path) -> None:
    expected = Tuned.read(tuned_in(tmp_path, row(1, 5, 2.8, 1.3), row(4, 3, 2.4, 1.5))).expected
    assert (expected.low, expected.num_speculative_tokens) == (pytest.approx(2.3), 3)
    assert expected.text == "2.40 (2.30 to 2.50) when it was tuned"


@pytest.mark.parametrize(
    ("num_running", "drafted", "cost"),
    [(1, 3, 1.3), (5, 3, 1.5), (16, 1, 1.2), (400, 1, 1.2), (16, 3, None), (8, 3, 1.5)],
)
def test_the_cost_is_that_of_the_load_and_of_the_same_k(
    num_running: int, drafted: int, cost: float | None, tmp_path: Path
) -> None:
    tuned = Tuned.read(tuned_in(tmp_path, row(1, 3, 2.4, 1.3), row(4, 3, 2.4, 1.5), row(16, 1, 1.6, 1.2)))
    assert tuned.round_cost(figures(num_running, drafted)) == cost


def test_a_cost_below_one_is_noise(tmp_path: Path) -> None:
    tuned = Tuned.read(tuned_in(tmp_path, row(4, 3, 2.4, 0.97)))
    assert tuned.round_cost(figures(4, 3)) == 1


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^tune: expected the --output of `vllm-mtp tune`, found no results\.json"):
        Tuned.read(tmp_path)
    (tmp_path / "results.json").write_text('{"rows": []}')
    with pytest.raises(InputError, match=r"^tune: expected what `vllm-mtp tune TARGET DRAFT_DIR` chose"):
        Tuned.read(tmp_path)
    without = {name: value for name, value in row(4, 3, 2.4, 1.5).items() if name != "tokens_per_round_95"}
    with pytest.raises(InputError, match=r"Of an earlier version: the same command writes it again"):
        Tuned.read(tuned_in(tmp_path, without))
