"""What conversations ask, turn by turn. Catches a second turn that is never asked, or asked after another's answer."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.training.data.chat.templates import CHATML, THINKING
from vllm_mtp.benchmarks.harness.conversations import Conversations
from vllm_mtp.training.data.chat.options import TemplateOptions
from vllm_mtp.training.data.chat.template import ChatTemplate
from vllm_mtp.training.data.prompts import read_prompts

LINES: list[dict[str, Any]] = [
    {"category": "writing", "turns": ["Write.", "Shorten it."]},
    {"category": "qa", "turns": ["Why?"]},
    {"messages": [
        {"role": "user", "content": "One."},
        {"role": "assistant", "content": "given"},
        {"role": "user", "content": "Two."},
    ]},
]  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer(target_dir: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(target_dir)


@pytest.fixture
def conversations(tokenizer: Any, tmp_path: Path) -> Any:
    def make(
        num_turns: int, template: str = CHATML, lines: Any = LINES, end_ids: Any = (), **options: Any
    ) -> Conversations:
        file, path = tmp_path / "prompts.jsonl", tmp_path / "template.jinja"
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
        path.write_text(template)
        chosen = ChatTemplate(tokenizer, TemplateOptions(chat_template=str(path), **options))
        return Conversations(
            dialogs=read_prompts([file]), template=chosen, num_turns=num_turns, end_ids=frozenset(end_ids)
        )

    return make


def texts(tokenizer: Any, prompts: Any) -> dict[int, str]:
    return {prompt.number: tokenizer.decode(prompt.token_ids) for prompt in prompts}


def asked(*said: str) -> str:
    """ChatML, the user first and in turn."""
    roles = ("user", "assistant") * len(said)
    turns = [f"<|im_start|>{role}\n{text}<|im_end|>\n" for role, text in zip(roles, said, strict=False)]
    return "".join(turns) + "<|im_start|>assistant\n"


def test_once(conversations: Any, tokenizer: Any) -> None:
    """With one turn: the first where the user alone speaks, else the last with the history that the file gives."""
    found = conversations(1).prompts()
    assert texts(tokenizer, found) == {0: asked("Write."), 1: asked("Why?"), 2: asked("One.", "given", "Two.")}
    assert [(one.category, one.task, one.turn) for one in found] == [
        ("writing", "mt_bench", 1),
        ("qa", "qa", 1),
        ("prompts", "prompts", 1),
    ]


def test_every_turn_after_the_targets_own_answer(conversations: Any, tokenizer: Any) -> None:
    """Turns have numbers of their own; one whose turn before was left out is not asked."""
    two = conversations(2)
    assert texts(tokenizer, two.prompts()) == {0: asked("Write."), 2: asked("Why?"), 4: asked("One.")}
    answers = {number: tokenizer(text).input_ids for number, text in ((0, "mine"), (2, "because"), (4, "other"))}
    second = two.prompts(2, answers)
    assert texts(tokenizer, second) == {
        1: asked("Write.", "mine", "Shorten it."),
        5: asked("One.", "other", "Two."),
    }
    assert [one.turn for one in second] == [2, 2]
    assert texts(tokenizer, two.prompts(2, {4: answers[4]})) == {5: asked("One.", "other", "Two.")}
    assert two.prompts(3, answers) == []


def test_what_ends_an_answer_is_no_part_of_it(conversations: Any, tokenizer: Any) -> None:
    """As the server gives an answer back. Catches an end of turn twice where that is no special token."""
    [end] = tokenizer("!").input_ids
    ids = tokenizer("mine").input_ids
    two = conversations(2, end_ids=[end])
    for answer in ([*ids, end], ids):
        assert texts(tokenizer, two.prompts(2, {0: answer})) == {1: asked("Write.", "mine", "Shorten it.")}
    assert texts(tokenizer, two.prompts(2, {0: [end]})) == {1: asked("Write.", "", "Shorten it.")}


def test_variables_and_tools_of_the_template(conversations: Any, tokenizer: Any, tmp_path: Path) -> None:
    tools = tmp_path / "tools.json"
    tools.write_text(json.dumps([{"name": "f", "parameters": {}}]))
    one = {"turns": ["Why?"]}
    given = conversations(1, THINKING, [one], chat_template_kwargs='{"enable_thinking": false}', tools=str(tools))
    [text] = texts(tokenizer, given.prompts()).values()
    assert '"name": "f"' in text
    assert text.endswith("<think>\n\n</think>\n")
