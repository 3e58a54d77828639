"""Rows on disk: taken again with the same settings, refused with others."""

from pathlib import Path

import pytest

from vllm_mtp.benchmarks.harness import row_store
from vllm_mtp.benchmarks.harness.row_store import RowStore, serving_dtype_of

SETTINGS = {"acceptance": {"max_tokens": 48, "dtype": "float32"}, "speed": {"hardware": "this"}}


def test_rows_are_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = RowStore(tmp_path / "out", SETTINGS)
    assert "acceptance-mtp-k3-t0.7" not in store
    store.save("acceptance-mtp-k3-t0.7", "acceptance", {"records": [1, 2]})
    again = RowStore(tmp_path / "out", SETTINGS)
    assert "acceptance-mtp-k3-t0.7" in again
    assert again.all() == [("acceptance", {"records": [1, 2]})]
    assert again.load("acceptance-mtp-k3-t0.7") == {"records": [1, 2]}
    monkeypatch.setattr(row_store, "serving_dtype", lambda target, dtype: f"{dtype} for {target}")
    assert serving_dtype_of(tmp_path / "out", "auto", "t") == "float32"
    assert serving_dtype_of(tmp_path / "out", "bfloat16", "t") == "bfloat16 for t"
    assert serving_dtype_of(tmp_path / "absent", "auto", "t") == "auto for t"


def test_other_settings_are_refused_and_named(tmp_path: Path) -> None:
    """Rows of 48 and of 96 tokens in one table would be compared by whoever reads it."""
    RowStore(tmp_path, SETTINGS).save("acceptance-none-k0-t0", "acceptance", {})
    other = {"acceptance": {"max_tokens": 96, "dtype": "float32"}}
    with pytest.raises(ValueError, match="max_tokens: 48, now 96"):
        RowStore(tmp_path, other)


def test_only_the_kinds_that_are_asked_for_are_compared(tmp_path: Path) -> None:
    """Acceptance does not depend on the machine: a folder with speeds of another one can get more rows."""
    RowStore(tmp_path, SETTINGS).save("speed-mtp-k3-t0-b1", "speed", {})
    RowStore(tmp_path, {"acceptance": SETTINGS["acceptance"]})
    with pytest.raises(ValueError, match="hardware: 'this', now 'that'"):
        RowStore(tmp_path, SETTINGS | {"speed": {"hardware": "that"}})


def test_a_damaged_row_and_a_file_in_the_way(tmp_path: Path) -> None:
    RowStore(tmp_path, SETTINGS)
    for content in ('{"kind": ', "{}", "[]"):
        (tmp_path / "rows" / "acceptance-x.json").write_text(content)
        with pytest.raises(ValueError, match="remove it to have it measured again"):
            RowStore(tmp_path, SETTINGS)
    with pytest.raises(ValueError, match="which is a file"):
        RowStore(tmp_path / "rows" / "acceptance-x.json", SETTINGS)
