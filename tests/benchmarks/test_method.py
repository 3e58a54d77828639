"""Methods as vLLM's speculative_config names them."""

import importlib.util
from pathlib import Path

import pytest

from vllm_mtp.benchmarks.method import NONE, RIVALS, method_of, mtp, rivals


def test_what_vllm_gets() -> None:
    assert NONE.speculative_config(Path("d")) is None
    assert mtp(3).speculative_config(Path("d")) == {
        "model": "d",
        "num_speculative_tokens": 3,
        "draft_sample_method": "probabilistic",
    }
    assert mtp(3, local_argmax=True).speculative_config(Path("d")) == {
        "model": "d",
        "num_speculative_tokens": 3,
        "use_local_argmax_reduction": True,
    }
    assert RIVALS["ngram"].speculative_config(None) == {
        "method": "ngram",
        "num_speculative_tokens": 5,
        "prompt_lookup_min": 2,
        "prompt_lookup_max": 3,
    }
    assert RIVALS["suffix"].speculative_config(None) == {"method": "suffix", "num_speculative_tokens": 8}


def test_names() -> None:
    assert rivals(["suffix", "ngram", "suffix"]) == [RIVALS["suffix"], RIVALS["ngram"]]
    assert rivals(["none"]) == []
    with pytest.raises(ValueError, match="expected none or some of ngram, suffix, got eagle"):
        rivals(["eagle"])
    methods = (NONE, mtp(5), mtp(5, local_argmax=True), *RIVALS.values())
    for method in methods:
        assert method_of(method.about()) == method
    assert method_of({"method": "mtp", "num_speculative_tokens": 5}) == mtp(5)
    assert len({method.slug for method in methods}) == len({str(method) for method in methods}) == len(methods)


def test_a_missing_package_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "arctic-inference==0.1.1, which is not installed" in RIVALS["suffix"].why_missing()
    assert RIVALS["ngram"].why_missing() == mtp(1).why_missing() == ""
