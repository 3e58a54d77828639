"""The folder that vLLM loads for a method."""

import json
from pathlib import Path

import pytest

from tests.drafts import small_config, write_random_draft
from vllm_mtp.benchmarks.harness.draft_folder import draft_folder, lookup_of
from vllm_mtp.benchmarks.harness.method import NONE, OFF, mtp
from vllm_mtp.contract.checkpoint import load_draft, write_lookup
from vllm_mtp.contract.lookup import Lookup


@pytest.fixture
def draft(tmp_path: Path) -> Path:
    return write_random_draft(tmp_path / "draft", small_config())


def test_a_variant_differs_in_lookup_alone(draft: Path, tmp_path: Path) -> None:
    """Catches a variant that vLLM would refuse, and a drafter that is changed for good by being measured."""
    write_lookup(draft, Lookup())
    before = {path.name: path.read_bytes() for path in draft.iterdir()}
    for wanted in (OFF, Lookup(min_match=3), Lookup()):
        folder = draft_folder(mtp(3, lookup=wanted), draft, tmp_path / "out")
        config, _ = load_draft(folder)
        assert Lookup.of(config.lookup) == (None if wanted == OFF else wanted)
        assert (folder == draft) == (wanted == Lookup())
        fields, own = (json.loads((one / "config.json").read_text()) for one in (folder, draft))
        assert {**fields, "lookup": 0} == {**own, "lookup": 0}
        assert (folder / "model.safetensors").read_bytes() == before["model.safetensors"]
    assert {path.name: path.read_bytes() for path in draft.iterdir()} == before


def test_without_need_there_is_no_variant(draft: Path, tmp_path: Path) -> None:
    for method in (NONE, mtp(3), mtp(3, lookup=OFF)):
        assert draft_folder(method, draft, tmp_path / "out") == draft
    assert lookup_of(draft) is None
    assert not (tmp_path / "out").exists()


def test_a_variant_follows_its_drafter(draft: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Made again of another drafter, first with links, then where there are none."""
    method, out = mtp(3, lookup=Lookup()), tmp_path / "out"
    folder = draft_folder(method, draft, out)

    def no_links(*_: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(Path, "symlink_to", no_links)
    other = write_random_draft(tmp_path / "other", small_config(intermediate_size=8), seed=1)
    assert draft_folder(method, other, out) == folder
    assert not (folder / "model.safetensors").is_symlink()
    assert load_draft(folder)[0].intermediate_size == 8
    assert load_draft(draft)[0].intermediate_size == 24, "the link is replaced, not what it led to"
