"""The target, and whether the drafter is one for it; nothing of vLLM is needed."""

import json
import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file

from tests.drafts import change_config, config_for, write_random_draft
from tests.vllm_mtp.doctor.cases import case_of
from vllm_mtp.contract.checkpoint import load_draft
from vllm_mtp.doctor.finding import ERROR, OK, WARNING
from vllm_mtp.doctor.target import drafter_is_for_it, target_is_read, weights_are_the_same


def fingerprint_of(target_dir: Path) -> dict[str, object]:
    from vllm_mtp.training.frozen.target import config_and_tokenizer
    from vllm_mtp.training.frozen.target import fingerprint_of as of

    return of(str(target_dir), *config_and_tokenizer(str(target_dir)))


def test_a_drafter_and_its_target(target_dir: Path, tmp_path: Path) -> None:
    draft = write_random_draft(
        tmp_path / "draft", config_for(target_dir, target_fingerprint=fingerprint_of(target_dir))
    )
    case = case_of(target_dir, draft)
    for check in (target_is_read, drafter_is_for_it, weights_are_the_same):
        assert [one.status for one in check(case)] == [OK], check.__name__


def test_another_shape_another_tokenizer_other_weights(target_dir: Path, tmp_path: Path) -> None:
    fingerprint = fingerprint_of(target_dir)
    other = write_random_draft(tmp_path / "other", config_for(target_dir, vocab_size=1000))
    [found] = drafter_is_for_it(case_of(target_dir, other))
    assert found.status == ERROR
    assert "vocab_size 1000" in found.message

    draft = write_random_draft(tmp_path / "draft", config_for(target_dir, target_fingerprint=fingerprint))
    tuned = shutil.copytree(target_dir, tmp_path / "tuned", copy_function=shutil.copyfile)
    tensors = load_file(tuned / "model.safetensors")
    tensors["model.embed_tokens.weight"] *= 1.05
    save_file(tensors, tuned / "model.safetensors", metadata={"format": "pt"})
    [found] = weights_are_the_same(case_of(tuned, draft))
    assert found.status == WARNING
    assert "Output stays exactly the target's" in found.message

    change_config(draft, target_fingerprint=dict(load_draft(draft)[0].target_fingerprint) | {"tokenizer_sha256": "0"})
    [found] = drafter_is_for_it(case_of(target_dir, draft))
    assert found.status == ERROR
    assert "tokenizer 0" in found.message


def test_a_tokenizer_with_more_tokens_than_rows(target_dir: Path, tmp_path: Path) -> None:
    target = shutil.copytree(target_dir, tmp_path / "target", copy_function=shutil.copyfile)
    fields = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(fields | {"vocab_size": fields["vocab_size"] - 1}))
    [found] = target_is_read(case_of(target, "d"))
    assert found.status == WARNING
    assert "2,048 tokens and the embedding 2,047 rows" in found.message
