"""`vllm-mtp eval`: prompts as they are served, and what is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from tests.drafts import config_for, write_random_draft
from vllm_mtp.benchmarks.simulation import speculate
from vllm_mtp.benchmarks.simulation.config import SimulationConfig
from vllm_mtp.benchmarks.simulation.speculate import Simulated
from vllm_mtp.cli import main
from vllm_mtp.training.frozen.target import FrozenTarget


def test_eval_asks_as_the_target_is_served(
    target_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches prompts of a chat model that are measured without its template, or beyond the end of its turn."""
    chat_target, prompts, figures = tmp_path / "target", tmp_path / "prompts.jsonl", tmp_path / "figures.json"
    shutil.copytree(target_dir, chat_target)
    (chat_target / "chat_template.jinja").write_text("# {{ messages[0]['content'] }}")
    (chat_target / "generation_config.json").write_text('{"eos_token_id": [7, 0]}')
    prompts.write_text('{"prompt": "x"}\n' + json.dumps({"prompt": "x" * 600}) + "\n")
    draft = write_random_draft(tmp_path / "draft", config_for(target_dir))
    asked: list[tuple[str, int, list[int]]] = []

    def recorded(target: FrozenTarget, module: Any, ids_P: torch.Tensor, **how: Any) -> Simulated:
        asked.append((target.tokenizer.decode(ids_P), len(ids_P), sorted(how["end_ids"])))
        return Simulated(token_ids=[1])

    monkeypatch.setattr(speculate, "generate", recorded)
    command = ["eval", "--target", str(chat_target), "--draft", str(draft), "--prompts", str(prompts)]
    command += ["--output", str(figures), "--max-prompt-tokens", "8", "--num-speculative-tokens", "1"]
    assert main([*command, "--temperature", "1"]) == 0
    assert asked == [("# x", asked[0][1], [0, 7])]
    assert "1 prompts in the target's chat template, 1 left out as too long" in capsys.readouterr().out
    assert json.loads(figures.read_text())["chat_template"] is True
    asked.clear()
    assert main([*command, "--temperature", "1", "--no-chat-template"]) == 0
    assert [(text, ends) for text, _, ends in asked][:1] == [("x", [])]
    assert asked[1][1] == 8
    assert main([*command, "--max-prompt-tokens", "1"]) == 2
    assert "all 2 are longer than 1 tokens in the target's chat template" in capsys.readouterr().err


def test_the_template_that_the_target_is_served_with(
    target_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches figures of another template than that of training and serving, and one that is not said in them."""
    template, tools, prompts = tmp_path / "chat.jinja", tmp_path / "tools.json", tmp_path / "prompts.jsonl"
    template.write_text(
        "{{ style }}{% for tool in tools %} {{ tool.function.name }}{% endfor %} {{ messages[0].content }}"
    )
    tools.write_text('[{"name": "save"}]')
    prompts.write_text('{"prompt": "x"}\n')
    figures, draft = tmp_path / "figures.json", write_random_draft(tmp_path / "draft", config_for(target_dir))
    asked: list[str] = []

    def recorded(target: FrozenTarget, module: Any, ids_P: torch.Tensor, **how: Any) -> Simulated:
        asked.append(target.tokenizer.decode(ids_P))
        return Simulated(token_ids=[1])

    monkeypatch.setattr(speculate, "generate", recorded)
    command = ["eval", str(target_dir), "--draft", str(draft), "--prompts", str(prompts), "--output", str(figures)]
    command += ["--spec-tokens", "1", "--temperature", "1", "--chat-template", str(template)]
    assert main([*command, "--chat-template-kwargs", '{"style": "short"}', "--tools", str(tools)]) == 0
    assert asked == ["short save x"]
    config = json.loads(figures.read_text())["config"]
    assert config["template"].keys() == {"chat_template_sha256", "chat_template_kwargs", "tools_sha256"}
    assert main([*command, "--no-chat-template"]) == 2
    assert "--no-chat-template: expected no options of a template beside it" in capsys.readouterr().err


def test_a_prompt_that_the_template_refuses_is_met_before_the_weights_are_loaded(
    target_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    template, prompts = tmp_path / "chat.jinja", tmp_path / "prompts.jsonl"
    template.write_text("{{ raise_exception('no') }}")
    prompts.write_text('{"prompt": "x"}\n')
    draft = write_random_draft(tmp_path / "draft", config_for(target_dir))
    monkeypatch.setattr(FrozenTarget, "load", lambda *_, **__: pytest.fail("the weights were loaded"))
    command = ["eval", str(target_dir), "--draft", str(draft), "--prompts", str(prompts)]
    assert main([*command, "--chat-template", str(template)]) == 2
    assert "prompts.jsonl:1: expected messages that the target's chat template takes" in capsys.readouterr().err


def test_a_token_without_embedding_is_one_line(
    target_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches an IndexError for a tokenizer that has had a token added, which the target's embedding has not."""
    target, prompts = tmp_path / "target", tmp_path / "prompts.jsonl"
    shutil.copytree(target_dir, target)
    tokenizer = AutoTokenizer.from_pretrained(target)
    tokenizer.add_tokens(["<|added|>"])
    tokenizer.save_pretrained(target)
    draft = write_random_draft(tmp_path / "draft", config_for(target))
    prompts.write_text('{"prompt": "x <|added|>"}\n')
    assert main(["eval", str(target), "--draft", str(draft), "--prompts", str(prompts)]) == 2
    [error] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("vllm-mtp")]
    assert f"--prompts: token {len(tokenizer) - 1} is in them, and the target's embedding has rows 0 to" in error


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_speculative_tokens": (0,)}, "at least 1"),
        ({"temperature": (-1.0,)}, "at least 0"),
        ({"max_tokens": 0}, "at least 1"),
        ({"top_p": 0.0}, "more than 0 and at most 1"),
        ({"top_k": -1}, "at least 0"),
    ],
)
def test_bad_settings_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SimulationConfig(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(("field", "value"), [("hidden_size", 64), ("vocab_size", 1000)])
def test_a_drafter_of_another_target_is_refused(
    target_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], field: str, value: int
) -> None:
    """Catches a drafter without a fingerprint that is taken whatever its shape is, and weights loaded for nothing."""
    draft = write_random_draft(tmp_path / "draft", config_for(target_dir, **{field: value}))
    (tmp_path / "prompts.txt").write_text("def f(x):")
    command = ["eval", str(target_dir), "--draft", str(draft), "--prompts", str(tmp_path / "prompts.txt")]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert error.startswith("vllm-mtp eval: --draft: This drafter was made for another target")
    assert f"{field} {value}, the target has" in error


def test_contexts_beyond_the_training_are_one_warning(
    target_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draft = write_random_draft(tmp_path / "draft", config_for(target_dir, trained_length=8))
    (tmp_path / "prompts.txt").write_text("def f(x):")
    command = ["eval", str(target_dir), "--draft", str(draft), "--prompts", str(tmp_path / "prompts.txt")]
    assert main([*command, "--max-tokens", "8", "--temperature", "1", "--top-p", "0.9", "--spec-tokens", "2"]) == 0
    captured = capsys.readouterr()
    assert captured.err.count("trained on contexts of up to 8 tokens") == 1
    assert "| 1 | 2 |" in captured.out


def test_beyond_the_target_s_context_nothing_is_run(
    target_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draft = write_random_draft(tmp_path / "draft", config_for(target_dir))
    (tmp_path / "prompts.txt").write_text("def f(x):")
    command = ["eval", str(target_dir), "--draft", str(draft), "--prompts", str(tmp_path / "prompts.txt")]
    assert main([*command, "--max-tokens", "1024"]) == 2
    error = capsys.readouterr().err
    assert "--max-tokens: expected room for them in the target's context of 1,024 tokens beside a prompt of " in error
