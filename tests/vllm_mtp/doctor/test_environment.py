"""The plugin in this environment."""

from pathlib import Path

import pytest

from tests.vllm_mtp.doctor.cases import case_of
from vllm_mtp.doctor import environment
from vllm_mtp.doctor.environment import plugin_is_registered
from vllm_mtp.doctor.finding import ERROR, OK


@pytest.mark.parametrize(("allowed", "status"), [(None, OK), ("other,vllm_mtp", OK), ("other", ERROR), ("", ERROR)])
def test_the_plugin_is_loaded_by_vllm(
    target_dir: Path, monkeypatch: pytest.MonkeyPatch, allowed: str | None, status: str
) -> None:
    """Catches VLLM_PLUGINS that leaves ours out: vLLM then does not know the drafter's model_type."""
    monkeypatch.delenv("VLLM_PLUGINS", raising=False)
    if allowed is not None:
        monkeypatch.setenv("VLLM_PLUGINS", allowed)
    [found] = plugin_is_registered(case_of(target_dir, "d"))
    assert found.status == status


def test_a_checkout_that_is_not_installed(target_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_GROUP", "vllm.no_such_group")
    [found] = plugin_is_registered(case_of(target_dir, "d"))
    assert found.status == ERROR
    assert "pip install vllm-mtp" in found.message
