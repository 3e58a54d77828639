"""Answers between turns. Catches rows that are measured on different prompts, and answers that are asked for again."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.drafts import small_config, write_random_draft
from tests.training.data.chat.templates import CHATML
from vllm_mtp.benchmarks.acceptance.config import AcceptanceConfig
from vllm_mtp.benchmarks.acceptance.later_turns import with_later_turns
from vllm_mtp.benchmarks.acceptance.setup import Setup, set_up
from vllm_mtp.benchmarks.harness.record import Record, Request
from vllm_mtp.training.data.chat.options import TemplateOptions


class Engine:
    """Answers every prompt with its number, as text."""

    def __init__(self, setup: Setup, started: list[int]) -> None:
        self.tokenizer = setup.conversations.template.tokenizer
        started.append(setup.engine.max_model_len)

    def measure(self, request: Request) -> list[Record]:
        assert (request.temperature, request.ignore_eos) == (0.0, False)
        return [
            Record(token_ids=self.tokenizer(f"answer {one.number}").input_ids, number=one.number)
            for one in request.prompts
        ]


@pytest.fixture
def setup(target_dir: Path, tmp_path: Path) -> Setup:
    file, template = tmp_path / "question.jsonl", tmp_path / "template.jinja"
    template.write_text(CHATML)
    lines = [{"turns": ["a", "b", "c"]}, {"turns": ["d"]}, {"turns": ["e", "f " * 1000, "g"]}]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = AcceptanceConfig(turns=3, max_tokens=8, template_options=TemplateOptions(chat_template=str(template)))
    draft = write_random_draft(tmp_path / "draft", small_config(hidden_size=128, vocab_size=2048))
    return set_up(config, target=str(target_dir), draft=draft, prompts=file, output=tmp_path / "out")


def test_each_turn_is_asked_after_the_answers_before(setup: Setup, tmp_path: Path) -> None:
    """A turn that is too long is left out, and what would follow it; the folder keeps the answers."""
    started: list[int] = []

    @contextmanager
    def engine(one: Setup) -> Iterator[Any]:
        yield Engine(one, started)

    def run() -> Setup:
        return with_later_turns(setup, tmp_path / "out", {}, engine)

    found = run()
    decode = setup.conversations.template.tokenizer.decode
    assert [(one.number, one.turn) for one in found.prompts] == [(0, 1), (1, 2), (2, 3), (3, 1), (6, 1)]
    assert found.num_left_out == 1
    last = decode(found.prompts[2].token_ids)
    assert [last.index(text) for text in ("a", "answer 0", "b", "answer 1", "c")] == sorted(
        last.index(text) for text in ("a", "answer 0", "b", "answer 1", "c")
    )
    assert found.settings()["acceptance"]["prompt_tokens"] != setup.settings()["acceptance"]["prompt_tokens"]
    assert found.engine.max_model_len == len(found.prompts[2].token_ids) + found.room
    assert len(started) == 2
    assert run() == found
    assert len(started) == 2, "answers are in the folder"


def test_a_template_refuses_a_later_turn_at_once(setup: Setup, tmp_path: Path) -> None:
    """Catches an engine that answers first turns for minutes, for second ones that cannot be asked."""
    template = tmp_path / "template.jinja"
    template.write_text("{% if messages | length > 1 %}{{ raise_exception('one message') }}{% endif %}" + CHATML)
    with pytest.raises(ValueError, match=r"question\.jsonl:1: expected messages .* it refuses user, assistant, user"):
        set_up(
            setup.config,
            target=setup.engine.target,
            draft=setup.engine.draft,
            prompts=setup.prompt_file,
            output=tmp_path / "out",
        )


def test_without_a_template_there_are_no_turns(setup: Setup, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^turns: expected 1 for a target without a chat template"):
        set_up(
            AcceptanceConfig(turns=2),
            target=setup.engine.target,
            draft=setup.engine.draft,
            prompts=setup.prompt_file,
            output=tmp_path / "out",
        )
