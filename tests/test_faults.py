"""Kills, full and read-only disks, want of memory and NaN at random moments of `vllm-mtp train`, its store included.

Catches: a traceback in place of a line, a file left half written, more than an interval lost, a result that is not the
undisturbed one bit for bit.
"""

from pathlib import Path

import pytest

from tests.fault_commands import FAULTS, generating_in, training_in
from tests.faults import disk_of_its_own, try_all


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, pytest.param(100, marks=pytest.mark.extended)])
def test_train_after_faults_gives_the_undisturbed_result(number: int, tmp_path: Path) -> None:
    with disk_of_its_own() as disk:
        rows = list(try_all(training_in(tmp_path), FAULTS, number, disk))
    assert [row["others"] for row in rows] == [[]] * len(FAULTS)
    assert sum(row["num_felt"] for row in rows) > 0.5 * number * len(FAULTS)


@pytest.mark.extended
@pytest.mark.vllm
def test_generate_after_faults_gives_the_undisturbed_result(tmp_path: Path) -> None:
    with disk_of_its_own() as disk:
        rows = list(try_all(generating_in(tmp_path), FAULTS[:-1], 20, disk))
    assert [row["others"] for row in rows] == [[]] * len(rows)
    assert sum(row["num_felt"] for row in rows) > 0.5 * 20 * len(rows)
