"""A drafter that is broken, or belongs to another target, is refused by vLLM with one clear error, as early as can be.

Catches what stock vLLM passes over in silence (a missing linear tensor, NaN, a smaller vocabulary, a pickle beside the
weights) or notices only when the first request kills the engine (another hidden size).
"""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from tests.drafts import EARLY, LATE, Damage, change_config, config_for, damaged, write_random_draft
from tests.serving.engine import acceptance, engine, greedy, model_runner
from vllm_mtp.contract.checkpoint import load_draft
from vllm_mtp.serving.target_check import check_target

pytestmark = pytest.mark.vllm


@pytest.fixture(scope="module")
def draft(target_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A valid drafter with random weights."""
    return write_random_draft(tmp_path_factory.mktemp("valid") / "draft", config_for(target_dir))


@pytest.fixture(autouse=True)
def no_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM tries twice to read a config.json, two seconds apart, before it reports the error."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)


def configure(target_dir: Path, **arguments: Any) -> Any:
    """What `vllm serve` and `LLM` do first, in the caller's process: no engine is started, no weight is loaded."""
    from vllm.engine.arg_utils import EngineArgs

    return EngineArgs(model=str(target_dir), max_model_len=512, **arguments).create_engine_config()


def drafting(draft_dir: Path, num_speculative_tokens: int = 3) -> dict[str, Any]:
    return {"speculative_config": {"model": str(draft_dir), "num_speculative_tokens": num_speculative_tokens}}


@pytest.mark.parametrize("damage", EARLY, ids=lambda damage: damage.name)
def test_refused_before_anything_is_loaded(target_dir: Path, draft: Path, tmp_path: Path, damage: Damage) -> None:
    broken = damaged(draft, tmp_path / "broken", damage)
    with pytest.raises((ValueError, OSError), match=damage.message) as caught:
        configure(target_dir, **drafting(broken))
    assert str(broken) in str(caught.value), "the error names the folder"


def test_the_valid_drafter_is_not_refused(target_dir: Path, draft: Path) -> None:
    assert configure(target_dir, **drafting(draft)).speculative_config.method == "mtp"


def test_absent_folder(target_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"local directory.*{tmp_path}/nowhere"):
        configure(target_dir, **drafting(tmp_path / "nowhere"))


@pytest.mark.parametrize("short", [False, True])
def test_zero_draft_tokens(target_dir: Path, draft: Path, short: bool) -> None:
    arguments = {"spec_method": "mtp", "spec_model": str(draft), "spec_tokens": 0} if short else drafting(draft, 0)
    with pytest.raises(ValueError, match="greater than 0"):
        configure(target_dir, **arguments)


@pytest.mark.parametrize("name", ["eagle-drafts", "Eagle3", "my-dflash", "dspark"])
@pytest.mark.parametrize("method", [{}, {"method": "mtp"}], ids=["detected", "named"])
def test_path_that_vllm_takes_for_another_method(
    target_dir: Path, draft: Path, tmp_path: Path, name: str, method: dict[str, str]
) -> None:
    shutil.copytree(draft, tmp_path / name / "draft")
    fields = {"model": str(tmp_path / name / "draft"), "num_speculative_tokens": 3, **method}
    with pytest.raises(ValueError, match=r"whose path contains .* for one of another method\. Rename that folder"):
        configure(target_dir, speculative_config=fields)


def check(target_dir: Path, draft_dir: Path) -> None:
    """What vLLM's worker does before it builds the draft model."""
    check_target(load_draft(draft_dir)[0], configure(target_dir).model_config)


def warnings(caplog: pytest.LogCaptureFixture, *, of_contexts: bool = False) -> list[str]:
    """Our own messages among those of vLLM: of contexts, or others. The tests' drafter is of short rows."""
    messages = [record.getMessage() for record in caplog.records if record.name.startswith("vllm_mtp")]
    return [message for message in messages if ("was trained on contexts" in message) == of_contexts]


@pytest.mark.parametrize(
    ("field", "value"), [("hidden_size", 64), ("vocab_size", 1000), ("vocab_size", 4096)], ids=lambda value: str(value)
)
def test_drafter_of_another_shape(target_dir: Path, tmp_path: Path, field: str, value: int) -> None:
    config = config_for(target_dir, **{field: value})
    expected = getattr(config_for(target_dir), field)
    with pytest.raises(ValueError, match=f"another target .*{field} {value}, the target has {expected}.*train one"):
        check(target_dir, write_random_draft(tmp_path / "draft", config))


def swap_two_tokens(target_dir: Path) -> None:
    path = target_dir / "tokenizer.json"
    content = json.loads(path.read_text())
    vocabulary = content["model"]["vocab"]
    one, two = list(vocabulary)[-2:]
    vocabulary[one], vocabulary[two] = vocabulary[two], vocabulary[one]
    path.write_text(json.dumps(content))


def test_target_with_another_tokenizer(target_dir: Path, draft_dir: Path, tmp_path: Path) -> None:
    other = shutil.copytree(target_dir, tmp_path / "target", copy_function=shutil.copyfile)
    swap_two_tokens(other)
    with pytest.raises(ValueError, match=r"another target .*tokenizer \w+\.\.\., the target has \w+.*train one"):
        check(other, draft_dir)
    # The way out that the message names, for ids that mean the same.
    draft = shutil.copytree(draft_dir, tmp_path / "draft", copy_function=shutil.copyfile)
    fingerprint = dict(load_draft(draft)[0].target_fingerprint)
    del fingerprint["tokenizer_sha256"]
    change_config(draft, target_fingerprint=fingerprint)
    check(other, draft)


def test_a_tokenizer_that_transformers_cannot_read_is_one_warning(
    target_dir: Path, draft_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unknown(*_: Any, **__: Any) -> Any:
        raise ValueError("Tokenizer class X does not exist")

    model_config = configure(target_dir).model_config
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", unknown)
    with caplog.at_level(logging.WARNING, "vllm_mtp"):
        check_target(load_draft(draft_dir)[0], model_config)
    [warning] = warnings(caplog)
    assert "was not compared with the drafter's: Tokenizer class X does not exist" in warning


def test_argmax_and_sampled_drafts_exclude_each_other(target_dir: Path, draft: Path) -> None:
    from vllm_mtp.serving.draft_model import MTPDraftModel

    arguments = drafting(draft)
    arguments["speculative_config"] |= {"use_local_argmax_reduction": True, "draft_sample_method": "probabilistic"}
    with pytest.raises(ValueError, match="drafts greedily"):
        MTPDraftModel(vllm_config=configure(target_dir, **arguments))


def test_the_targets_weights_are_those_that_vllm_loads(
    target_dir: Path, draft_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a target compared by the weights of another revision or cache: they are read when the model is built."""
    from vllm_mtp.serving.draft_model import MTPDraftModel

    read = []

    def reading(*_: Any, revision: str | None, cache_dir: str | None, **__: Any) -> None:
        read.append((revision, cache_dir))

    monkeypatch.setattr("vllm_mtp.contract.pair.stored_rows", reading)
    config = configure(target_dir, download_dir=str(tmp_path), revision="v2", **drafting(draft_dir))
    with pytest.raises(AssertionError):  # no process groups: a worker makes them before it builds the model
        MTPDraftModel(vllm_config=config)
    assert read == [("v2", str(tmp_path))]


def test_no_false_alarm(target_dir: Path, draft_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The drafter's own target, also with its tokenizer and its weights saved again."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    AutoTokenizer.from_pretrained(target_dir).save_pretrained(tmp_path / "target")
    AutoModelForCausalLM.from_pretrained(target_dir).save_pretrained(tmp_path / "target")
    with caplog.at_level(logging.WARNING, "vllm_mtp"):
        check(target_dir, draft_dir)
        check(tmp_path / "target", draft_dir)
    assert not warnings(caplog)


def test_fine_tuned_target_is_one_warning(
    target_dir: Path, draft_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tuned = shutil.copytree(target_dir, tmp_path / "target", copy_function=shutil.copyfile)
    tensors = load_file(tuned / "model.safetensors")
    tensors["model.embed_tokens.weight"] *= 1.05
    save_file(tensors, tuned / "model.safetensors", metadata={"format": "pt"})
    with caplog.at_level(logging.WARNING, "vllm_mtp"):
        check(tuned, draft_dir)
    [warning] = warnings(caplog)
    assert "Output stays exactly the target's, acceptance may fall" in warning


def test_context_beyond_the_drafters_training_is_one_warning(
    target_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    draft = write_random_draft(tmp_path / "draft", config_for(target_dir, trained_length=80))
    with caplog.at_level(logging.WARNING, "vllm_mtp"):
        check(target_dir, draft)
    [warning] = warnings(caplog, of_contexts=True)
    assert "trained on contexts of up to 80 tokens and may meet 512 here" in warning
    assert "train --sequence-length 512" in warning


def test_an_earlier_drafters_length_does_not_end_drafting(target_dir: Path, draft: Path, tmp_path: Path) -> None:
    """Catches `max_position_embeddings` of config.json taken for the draft's length: vLLM's V1 runner then drafts
    nothing for a whole batch as soon as one request is longer, and says nothing."""
    short = shutil.copytree(draft, tmp_path / "short")
    change_config(short, max_position_embeddings=80)
    for folder in (draft, short):
        assert configure(target_dir, **drafting(folder)).speculative_config.draft_model_config.max_model_len == 512


@pytest.mark.slow
class TestEngine:
    """The same in an engine that starts: the checks are called, and the engine's process can start another."""

    @pytest.mark.parametrize("damage", LATE[:1], ids=lambda damage: damage.name)
    def test_values_are_checked(self, target_dir: Path, draft: Path, tmp_path: Path, damage: Damage) -> None:
        broken = damaged(draft, tmp_path / "broken", damage)
        with pytest.raises(ValueError, match=damage.message), engine(target_dir, broken):
            pass

    def test_target_is_checked(self, target_dir: Path, tmp_path: Path) -> None:
        draft = write_random_draft(tmp_path / "draft", config_for(target_dir, hidden_size=64))
        with pytest.raises(ValueError, match=r"another target .*hidden_size 64"), engine(target_dir, draft):
            pass

    def test_neither_the_targets_files_nor_its_length_bind_the_drafter(
        self, target_dir: Path, tmp_path: Path, prompts: list[list[int]]
    ) -> None:
        """Catches files looked for that only targets have, and rotations read beyond the last (on vLLM's V2 runner)."""
        draft = write_random_draft(tmp_path / "draft", config_for(target_dir))
        change_config(draft, max_position_embeddings=80)
        other_format = {"draft_load_config": {"load_format": "mistral"}}
        with engine(target_dir, draft, speculative=other_format) as llm:
            rotary = model_runner(llm).drafter.model.model.layer.self_attn.rotary_emb
            assert len(rotary.cos_sin_cache) >= 512
            assert len(greedy(llm, prompts[:1], 100)[0]) == 100
            assert acceptance(llm).num_drafts > 60, "drafts go on behind position 80"

    def test_other_weights_alone_leave_the_output_exact(
        self,
        target_dir: Path,
        draft_dir: Path,
        prompts: list[list[int]],
        plain_outputs: list[list[int]],
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        draft = shutil.copytree(draft_dir, tmp_path / "draft")
        fingerprint = load_draft(draft)[0].target_fingerprint
        change_config(draft, target_fingerprint=fingerprint | {"weights_sha256": "0" * 64})
        with caplog.at_level(logging.WARNING, "vllm_mtp.serving.target_check"), engine(target_dir, draft) as llm:
            outputs = greedy(llm, prompts[:6], len(plain_outputs[0]))
            assert acceptance(llm).num_accepted_tokens > 0
        assert outputs == plain_outputs[:6]
        [warning] = [text for text in warnings(caplog) if "weights" in text]
        assert "The target's weights are not those the drafter was distilled from" in warning
