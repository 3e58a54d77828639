"""Methods as vLLM's speculative_config names them."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch

from vllm_mtp.benchmarks.harness.method import BASELINES, NONE, OFF, baselines, lookups, method_of, mtp, schedule_of
from vllm_mtp.contract.lookup import Lookup

SCHEDULE = ((1, 4, 5), (5, 16, 1))


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
    assert BASELINES["ngram"].speculative_config(None) == {
        "method": "ngram",
        "num_speculative_tokens": 5,
        "prompt_lookup_min": 2,
        "prompt_lookup_max": 3,
    }
    ngram, ngram_gpu = (BASELINES[name].speculative_config(None) for name in ("ngram", "ngram-gpu"))
    assert ngram is not None
    assert ngram_gpu == ngram | {"method": "ngram_gpu"}
    assert bool(BASELINES["ngram-gpu"].why_missing()) != torch.cuda.is_available()
    assert BASELINES["suffix"].speculative_config(None) == {"method": "suffix", "num_speculative_tokens": 8}
    assert BASELINES["suffix-f2"].speculative_config(None) == {
        "method": "suffix",
        "num_speculative_tokens": 8,
        "suffix_decoding_max_spec_factor": 2.0,
    }
    assert mtp(5, schedule=SCHEDULE).speculative_config(Path("d")) == {
        "model": "d",
        "num_speculative_tokens": 5,
        "draft_sample_method": "probabilistic",
        "num_speculative_tokens_per_batch_size": SCHEDULE,
    }
    assert mtp(3, lookup=OFF).speculative_config(Path("d")) == mtp(3).speculative_config(Path("d")), "folders tell"


def test_names() -> None:
    assert baselines(["suffix", "ngram", "suffix"]) == [BASELINES["suffix"], BASELINES["ngram"]]
    with pytest.raises(ValueError, match="expected some of ngram, ngram-gpu, suffix, suffix-f2, got eagle"):
        baselines(["eagle"])
    methods = [NONE, *BASELINES.values()]
    for argmax in (False, True):
        methods += [mtp(5, local_argmax=argmax, lookup=one) for one in ("drafter", OFF, Lookup(), Lookup(min_match=3))]
        methods += [mtp(5, local_argmax=argmax, lookup=one, schedule=SCHEDULE) for one in (OFF, Lookup())]
    for method in methods:
        assert method_of(json.loads(json.dumps(method.about()))) == method
    assert method_of({"method": "mtp", "num_speculative_tokens": 5}) == mtp(5)
    assert [mtp(5, lookup=one).label for one in ("drafter", OFF, Lookup())] == [
        *("mtp", "mtp, no lookup", "mtp, lookup 2-8, 3 steps"),
    ]
    assert mtp(5, schedule=SCHEDULE, lookup=OFF).label == "mtp, no lookup, scheduled 1:4:5 5:16:1"
    assert len({method.slug for method in methods}) == len({str(method) for method in methods}) == len(methods)


def test_rows_of_the_drafter_as_it_is_keep_their_names() -> None:
    """Rows that were stored before lookup was known are found again, with the same content."""
    assert (mtp(5).slug, mtp(5, local_argmax=True).slug) == ("mtp-k5", "mtp-k5-argmax")
    assert mtp(5).about() == {"method": "mtp", "num_speculative_tokens": 5, "local_argmax": False}


def test_settings_of_lookup() -> None:
    some = '{"min_match": 3, "max_match": 8, "module_steps": 2}'
    assert lookups(["off", "drafter", some, "off"]) == [OFF, "drafter", Lookup(min_match=3, module_steps=2)]
    for word, fault in (("on", "Expecting value"), ('{"min": 3}', "lookup has no field 'min'"), ("3", "an object")):
        with pytest.raises(ValueError, match=rf"^lookup: expected drafter, off or {{.*}}, got .*{fault}"):
            lookups([word])


def test_schedules() -> None:
    """What vLLM would refuse minutes later, when the engine starts; gaps it fills by itself."""
    assert schedule_of([]) == ()
    assert schedule_of(["5:16:0", "1:4:5"]) == ((1, 4, 5), (5, 16, 0))
    for words in (["1:4"], ["1:a:5"], ["2:4:5"], ["1:4:5", "4:8:1"], ["1:4:-1", "5:6:1"], ["4:1:5"], ["1:4:0"]):
        with pytest.raises(ValueError, match=f"^schedule: expected ranges .*; got {' '.join(words)}"):
            schedule_of(words)


def test_a_missing_package_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "arctic-inference==0.1.1, which is not installed" in BASELINES["suffix"].why_missing()
    assert BASELINES["ngram"].why_missing() == mtp(1).why_missing() == ""
