"""Prompts of a benchmark: tasks out of categories, limits that stay balanced."""

from pathlib import Path

import pytest

from vllm_mtp.benchmarks.harness.prompts import (
    BenchmarkPrompt,
    limited,
    sha256_of_tokens,
    task_of,
    tokenized,
)
from vllm_mtp.training.data.chat.template import ChatTemplate
from vllm_mtp.training.data.prompts import read_prompts


class WordTokenizer:
    """One id per word; its chat template says who speaks."""

    chat_template = "a template"

    def __call__(self, texts: list[str], **how: object) -> dict[str, list[list[int]]]:
        return {"input_ids": [[len(word) for word in text.split()] for text in texts]}

    def apply_chat_template(self, messages: list[dict[str, str]], **kwargs: object) -> str:
        assert kwargs["add_generation_prompt"]
        return f"> {' '.join(message['content'] for message in messages)} >"


def prompt(number: int, category: str) -> BenchmarkPrompt:
    return BenchmarkPrompt(number=number, category=category, task=task_of(category), token_ids=(1,))


def test_text_prompts_keep_their_indentation(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("    def f():\n        pass\n-----\nsecond\n-----\n\n")
    assert [prompt.text for prompt in read_prompts([path])] == ["    def f():\n        pass", "second"]


def test_spec_bench_categories_and_tasks(tmp_path: Path) -> None:
    """The first turn only; MT-Bench's categories are one task, "math" among them, which "math_reasoning" is not."""
    path = tmp_path / "question.jsonl"
    path.write_text(
        '{"question_id": 81, "category": "math", "turns": ["one two", "never"]}\n'
        '{"question_id": 161, "category": "math_reasoning", "turns": ["three"]}\n'
        '{"prompt": "no category"}\n'
    )
    found = tokenized(read_prompts([path]), ChatTemplate(WordTokenizer(), plain=True))
    assert [(one.category, one.task, one.token_ids) for one in found] == [
        ("math", "mt_bench", (3, 3)),
        ("math_reasoning", "math_reasoning", (5,)),
        ("prompts", "prompts", (2, 8)),
    ]


def test_the_chat_template_is_applied_unless_switched_off(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"messages": [{"role": "user", "content": "four"}, {"role": "assistant", "content": "gone"}]}\n')
    [with_template] = tokenized(read_prompts([path]), ChatTemplate(WordTokenizer()))
    [without] = tokenized(read_prompts([path]), ChatTemplate(WordTokenizer(), plain=True))
    assert (with_template.token_ids, without.token_ids) == ((1, 4, 1), (4,))
    assert sha256_of_tokens([with_template]) != sha256_of_tokens([without]), "rows of one are not those of the other"


def test_what_the_template_does_not_read_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "four", "tools": [{"name": "f", "parameters": {}}]}\n')
    tokenized(read_prompts([path]), ChatTemplate(WordTokenizer()))
    assert "the chat template reads no tools" in capsys.readouterr().err


def test_a_limit_takes_from_every_category_of_a_task() -> None:
    """The first six of MT-Bench's file would all be about writing."""
    prompts = [prompt(number, "writing" if number < 10 else "coding") for number in range(20)]
    prompts += [prompt(number, "qa") for number in range(20, 24)]
    assert [one.number for one in limited(prompts, 3)] == [0, 1, 10, 20, 21, 22]
    assert limited(prompts, None) == prompts
    assert len(limited(prompts, 100)) == 24


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="which is no file"):
        read_prompts([tmp_path / "absent.txt"])
