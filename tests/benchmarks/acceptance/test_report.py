"""From stored rows to results.json."""

from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.benchmarks.records import record
from tests.drafts import small_config, write_random_draft
from vllm_mtp.benchmarks.acceptance.config import AcceptanceConfig
from vllm_mtp.benchmarks.acceptance.measurement import Measurement
from vllm_mtp.benchmarks.acceptance.report import result_of
from vllm_mtp.benchmarks.harness.method import BASELINES, OFF, mtp
from vllm_mtp.benchmarks.harness.row_store import RowStore

IDS = list(range(8))


def test_pairs_of_a_row_are_joined(tmp_path: Path) -> None:
    """Catches pairs that become rows of their own, and one row of methods that differ in lookup alone."""
    setup: Any = SimpleNamespace(
        config=AcceptanceConfig(),
        engine=SimpleNamespace(target="t", draft=write_random_draft(tmp_path / "draft", small_config())),
        prompt_file=Path("p"), prompts=[], num_left_out=0, identity={"prompts": "0"},
        conversations=SimpleNamespace(template=SimpleNamespace(is_plain=False)),
        kv_bytes_per_token={}, settings=lambda: {"speed": {}},
    )  # fmt: skip
    store = RowStore(tmp_path / "out", setup.settings())
    plain = record(IDS)
    for method, speedups in ((BASELINES["suffix-f2"], [8.0]), (mtp(3, lookup=OFF), [1.0]), (mtp(3), [2.0, 4.0])):
        for pair, speedup in enumerate(speedups, start=1):
            row = Measurement(kind="speed", method=method, temperature=0.0, batch_size=1, pair=pair)
            faster = replace(plain, seconds=1 / speedup)
            made = {"made_with": {"git_revision": pair}, "records": [asdict(faster)], "baseline": [asdict(plain)]}
            store.save(row.name, "speed", row.about() | made)
    rows = result_of(setup, store, {})["speed_rows"]
    assert [(row["method"], row.get("lookup"), row["speedup_of_pairs"], row["made_with"]) for row in rows] == [
        ("mtp", None, [2.0, 4.0], [0, 1]),
        ("mtp", "off", [1.0], 0),
        ("suffix-f2", None, [8.0], 0),
    ]
    assert rows[0]["speedup"] == pytest.approx(2 / (1 / 2 + 1 / 4), abs=1e-3)
