"""`bench tune-kernels` on the real kernels, in the interpreter, where a time means nothing: two candidates each.

Catches: a run that does not use the candidate, an entry that stays in a table, a table that was forgotten.
"""

import pytest
import torch

from vllm_mtp.benchmarks.kernels import tunables as kernels_tunables
from vllm_mtp.benchmarks.kernels.tune import tune_rows
from vllm_mtp.kernels.common import tables
from vllm_mtp.kernels.draft_head import kernel as draft_head
from vllm_mtp.kernels.linear_kl import kernel as linear_kl

CPU = torch.device("cpu")


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """One bucket, two candidates of each kernel of which one is no launch at all, a few rows."""
    monkeypatch.setattr(kernels_tunables, "TOKEN_BUCKETS", (16,))
    monkeypatch.setattr(kernels_tunables, "loss_chunk_size", lambda *_, **__: 2)
    tried = dict.fromkeys(draft_head._TO_TRY, ((64, 64, 1, 1), (63, 64, 1, 1)))
    monkeypatch.setattr(draft_head, "_TO_TRY", tried)
    monkeypatch.setattr(linear_kl, "_TO_TRY", ((128, 1), (129, 1)))


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize(
    ("kernel", "names"),
    [
        ("draft_head", ['TABLES["16 bits"]', 'TABLES["8 bits"]', 'TABLES["8 bits, hidden states wider"]']),
        ("linear_kl", ["SOFTMAX", "DIVERGENCE"]),
    ],
)
def test_every_table(kernel: str, names: list[str]) -> None:
    before = str([draft_head.TABLES, linear_kl.SOFTMAX, linear_kl.DIVERGENCE])
    rows = list(tune_rows([kernel], "smoke", CPU, 1e-6))
    assert [row["table"] for row in rows] == [f"kernels/{kernel}/kernel.py: {name}" for name in names]
    for row in rows:
        assert row["best"] in [candidate for candidate, _ in row["times_us"]]
        # The shipped one and the one that runs; a block that is no power of two does not compile.
        assert len(row["times_us"]) + len(row["failures"]) >= 2
        assert all("63" in candidate or "129" in candidate for candidate, _ in row["failures"])
        assert row["failures"]
    assert before == str([draft_head.TABLES, linear_kl.SOFTMAX, linear_kl.DIVERGENCE])
    assert "cpu" not in draft_head.TABLES["16 bits"]


@pytest.mark.parametrize("name", [*tables.ARCHITECTURES, "sm_120"])
def test_what_is_tried_can_run(name: str) -> None:
    for table_name, table in draft_head.TABLES.items():
        for bucket in tables.TOKEN_BUCKETS:
            tried = draft_head.launches_to_try(table_name, bucket, name)
            assert len(tried) >= 2
            assert len({str(launch) for launch in tried}) == len(tried)
            assert all(draft_head.can_run(table_name, launch, name) for launch in tried)
        for shipped in table.get(name, table["default"]).values():
            assert draft_head.can_run(table_name, shipped, name)
    assert all(linear_kl.can_run(launch) for launch in [*linear_kl.launches_to_try(), linear_kl.SOFTMAX["default"][0]])
    large = tables.Launch({"BLOCK_V": 256, "BLOCK_T": 16, "BLOCK_D": 256}, 8, 3)
    assert not draft_head.can_run("16 bits", large, name)
