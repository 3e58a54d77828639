"""Catches: a part of the draft class that was renamed, and is in no profile any more."""

import pytest


@pytest.mark.vllm
def test_parts_of_the_drafter_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from vllm_mtp.benchmarks.harness.scopes import HEAD, LOOKUP, MODULE, name_parts_of_drafter
    from vllm_mtp.serving.draft_model import MTPDraftModel
    from vllm_mtp.serving.lookup_on_host import HostLookup

    parts = {
        MTPDraftModel: {"forward": MODULE, "compute_logits": HEAD, "get_top_tokens": HEAD},
        HostLookup: {"begin": LOOKUP, "end": LOOKUP, "tokens": LOOKUP},
    }
    for owner, names in parts.items():
        for name in names:
            getattr(owner, name)
            monkeypatch.setattr(owner, name, lambda self: None)
    name_parts_of_drafter()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        for owner, names in parts.items():
            for name in names:
                getattr(owner, name)(None)
    found = {event.key: event.count for event in profile.key_averages()}
    assert {name: found[name] for name in (MODULE, HEAD, LOOKUP)} == {MODULE: 1, HEAD: 2, LOOKUP: 3}
