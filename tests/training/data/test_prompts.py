"""Prompt files in every layout, and the ids that a target is asked with."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from jinja2 import TemplateError

from vllm_mtp.training.data.prompts import check_roles, prompt_ids, read_prompts, user_turn_end, user_turn_prefix


def test_every_layout(tmp_path: Path) -> None:
    text, lines = tmp_path / "a.txt", tmp_path / "b.jsonl"
    text.write_text("    def f():\n        pass\n-----\nsecond\n-----\n\n")
    lines.write_text(
        '{"prompt": "one\\n-----\\nstill one", "category": "qa"}\n\n'
        '{"question_id": 81, "category": "writing", "turns": ["first turn", "second turn"]}\n'
        '{"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"},'
        ' {"role": "assistant", "content": "a"}]}\n'
    )
    prompts = read_prompts([text, lines])
    assert [prompt.text for prompt in prompts] == [
        "    def f():\n        pass", "second", "one\n-----\nstill one", "first turn", "u"
    ]  # fmt: skip
    assert [prompt.category for prompt in prompts] == ["", "", "qa", "writing", ""]
    # An answer in the file is not part of what is asked.
    assert [message["role"] for message in prompts[-1].messages] == ["system", "user"]


def test_a_line_ends_where_json_says(tmp_path: Path) -> None:
    """Catches text with a Unicode line separator, which JSON may hold as it is, cut in two."""
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "one\u2028two\u0085"}\r\n{"prompt": "three"}\n', encoding="utf-8")
    assert [prompt.text for prompt in read_prompts([path])] == ["one\u2028two\u0085", "three"]


@pytest.mark.parametrize(
    "line",
    ["not json", '{"text": "x"}', '{"prompt": 3}', '{"prompt": " "}', "[]", '{"turns": []}', '{"messages": ["x"]}',
     '{"messages": [{"role": "assistant", "content": "a"}]}'],
)  # fmt: skip
def test_a_bad_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(f'{{"prompt": "fine"}}\n{line}\n')
    with pytest.raises(ValueError, match=r"^prompts: .*prompts\.jsonl:2"):
        read_prompts([path])


def test_bad_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("-----\n\n")
    (tmp_path / "latin.txt").write_bytes("ä".encode("latin-1"))
    for name, message in [("absent.txt", "is no file"), ("empty.txt", "holds no prompt"), ("latin.txt", "not UTF-8")]:
        with pytest.raises(ValueError, match=message):
            read_prompts([tmp_path / name])


class CharacterTokenizer:
    """One id per character, and a chat template that marks whose turn it is."""

    def __init__(self, chat_template: str | None = "yes") -> None:
        self.chat_template = chat_template

    def __call__(self, text: str, add_special_tokens: bool = True) -> Any:
        return SimpleNamespace(input_ids=[-9] * add_special_tokens + [ord(character) for character in text])

    def apply_chat_template(self, messages: Any, tokenize: bool = True, **kwargs: Any) -> Any:
        text = "!" + "".join(f"<{message['role'][0]}>{message['content']}\n" for message in messages)
        text += "<a>" * bool(kwargs.get("add_generation_prompt"))
        return [ord(character) for character in text] if tokenize else text


def test_ids_of_a_prompt() -> None:
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "hi"}]
    assert bytes(prompt_ids(CharacterTokenizer(), messages)) == b"!<s>s\n<u>hi\n<a>"
    plain = [-9, ord("h"), ord("i")]
    assert prompt_ids(CharacterTokenizer(), messages, chat=False) == plain
    assert prompt_ids(CharacterTokenizer(None), messages) == plain


def test_where_the_users_turn_begins() -> None:
    assert bytes(user_turn_prefix(CharacterTokenizer())) == b"!<u>"
    with pytest.raises(ValueError, match="self_prompts: expected a target with a chat template"):
        user_turn_prefix(CharacterTokenizer(None))


class NoSystemTokenizer(CharacterTokenizer):
    """Its template refuses a system's messages, as Gemma's does."""

    def apply_chat_template(self, messages: Any, tokenize: bool = True, **kwargs: Any) -> Any:
        if messages[0]["role"] == "system":
            raise TemplateError("System role not supported")
        return super().apply_chat_template(messages, tokenize, **kwargs)


def test_a_template_that_refuses_a_role_is_one_line() -> None:
    """Catches the template's own exception, a traceback, in the middle of a run."""
    user = {"role": "user", "content": "u"}
    check_roles(NoSystemTokenizer(), [[user], [user]])
    with pytest.raises(ValueError, match="refuses system, user: System role not supported"):
        check_roles(NoSystemTokenizer(), [[user], [{"role": "system", "content": "s"}, user]])


@pytest.mark.parametrize(
    ("template", "token_ids", "strings"),
    [
        ("<|user|>{{ message['content'] }}<|end|>\n", ["<|end|>"], []),
        ("[INST] {{ message['content'] }} [/INST]", [], ["[/INST]"]),
        ("User: {{ message['content'] }}\n\n", [], ["The answer:"]),
    ],
)
def test_where_the_users_turn_ends(target_dir: Path, template: str, token_ids: list[str], strings: list[str]) -> None:
    """Catches a target that writes on after its own question, and answers it."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(target_dir)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|end|>"]})
    turns = f"{{% for message in messages %}}{template}{{% endfor %}}"
    tokenizer.chat_template = turns + "{% if add_generation_prompt %}The answer:\nis {% endif %}"
    assert user_turn_end(tokenizer) == (tokenizer.convert_tokens_to_ids(token_ids), strings)
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    assert user_turn_end(tokenizer) == ([], [])
