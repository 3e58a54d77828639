"""An engine that cannot take another K says so; those that can are in test_rounds_server.py."""

from types import SimpleNamespace

import pytest

from vllm_mtp.benchmarks.harness.live import schedule_table


@pytest.mark.parametrize("core", [None, SimpleNamespace(scheduler=SimpleNamespace(dynamic_sd_lookup=None))])
def test_an_engine_without_a_schedule_is_refused(core: SimpleNamespace | None) -> None:
    llm = SimpleNamespace(llm_engine=SimpleNamespace(engine_core=SimpleNamespace(engine_core=core)))
    with pytest.raises(ValueError, match="a schedule of K by batch size"):
        schedule_table(llm)
