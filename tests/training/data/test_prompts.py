"""Prompt files in every layout, and the ids that a target is asked with."""

from pathlib import Path

import pytest

from vllm_mtp.training.data.chat.template import ChatTemplate
from vllm_mtp.training.data.prompts import read_prompts, user_turn_end, user_turn_prefix
from vllm_mtp.training.data.records import BadRecords


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
        "    def f():\n        pass", "second", "one\n-----\nstill one", "second turn", "a"
    ]  # fmt: skip
    assert [prompt.category for prompt in prompts] == ["", "", "qa", "writing", ""]
    assert [prompt.where for prompt in prompts[1:3]] == [f"{text}, prompt 2", f"{lines}:1"]


def test_a_line_ends_where_json_says(tmp_path: Path) -> None:
    """Catches text with a Unicode line separator, which JSON may hold as it is, cut in two."""
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "one\u2028two\u0085"}\r\n{"prompt": "three"}\n', encoding="utf-8")
    assert [prompt.text for prompt in read_prompts([path])] == ["one\u2028two\u0085", "three"]


@pytest.mark.parametrize(
    "line",
    ["not json", '{"text": "x"}', '{"prompt": 3}', '{"prompt": " "}', "[]", '{"turns": []}', '{"turns": [""]}',
     '{"messages": ["x"]}', '{"messages": [{"role": "assistant", "content": "a"}]}', '{"prompt": "\\ud83d"}',
     "[" * 100_000],
)  # fmt: skip
def test_a_bad_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "prompts.JSONL"
    path.write_text(f'{{"prompt": "fine"}}\n{line}\n')
    with pytest.raises(ValueError, match=r"^prompts: .*prompts\.JSONL:2"):
        read_prompts([path])
    bad = BadRecords(skip=True)
    assert [prompt.text for prompt in read_prompts([path], bad=bad)] == ["fine"]
    assert bad.num == 1


def test_other_formats_and_a_limit(tmp_path: Path) -> None:
    """Catches a file of chats that is one prompt of JSON text."""
    (tmp_path / "a.json").write_text('[{"conversations": [{"from": "human", "value": "one"}]}, {"prompt": "two"}]')
    (tmp_path / "b.json").write_text('[{"question": "three", "answer": "3"}]')
    assert [prompt.messages[0]["content"] for prompt in read_prompts([tmp_path])] == ["one", "two", "three"]
    assert len(read_prompts([tmp_path], limit=2)) == 2
    (tmp_path / "c.txt").write_text('{"prompt": "one"}\n')
    with pytest.raises(ValueError, match=r"c\.txt, got JSON"):
        read_prompts([tmp_path / "c.txt"])


def test_bad_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("-----\n\n")
    (tmp_path / "latin.txt").write_bytes("ä".encode("latin-1"))
    for name, message in [("absent.txt", "is no file"), ("empty.txt", "holds no prompt"), ("latin.txt", "not UTF-8")]:
        with pytest.raises(ValueError, match=message):
            read_prompts([tmp_path / name])


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
    assert user_turn_end(ChatTemplate(tokenizer)) == (tokenizer.convert_tokens_to_ids(token_ids), strings)
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    assert user_turn_end(ChatTemplate(tokenizer)) == ([], [])


def test_where_the_users_turn_begins(target_dir: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(target_dir)
    with pytest.raises(ValueError, match=r"^self_prompts: expected a target with a chat template"):
        user_turn_prefix(ChatTemplate(tokenizer))
    tokenizer.chat_template = "{% for message in messages %}<|user|>{{ message['content'] }}<|end|>{% endfor %}"
    template = ChatTemplate(tokenizer)
    assert tokenizer.decode(user_turn_prefix(template)) == "<|user|>"
    assert tokenizer.decode(user_turn_prefix(template, "Sum up: ")) == "<|user|>Sum up: "
    with pytest.raises(ValueError, match="half of a surrogate pair"):
        user_turn_prefix(template, "\ud83d")
    tokenizer.chat_template = "nothing of the user"
    with pytest.raises(ValueError, match=r"^self_prompts: expected a chat template that renders the user's text"):
        user_turn_prefix(ChatTemplate(tokenizer))
