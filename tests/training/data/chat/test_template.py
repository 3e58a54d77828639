"""Conversations rendered as the server renders them, and answers found in what is rendered."""

import copy
from pathlib import Path
from typing import Any

import pytest

from tests.training.data.chat.templates import ALL, CHATML, PARTS, STRICT, THINKING
from vllm_mtp.training.data.chat.layouts import dialog_of
from vllm_mtp.training.data.chat.options import TemplateOptions
from vllm_mtp.training.data.chat.template import ChatTemplate

USER, SECOND = {"role": "user", "content": "u"}, {"role": "user", "content": "v"}
ANSWER = {"role": "assistant", "content": "an answer"}
CALLS = {"role": "assistant", "content": None, "tool_calls": [
    {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"b": 1, "a": [2]}'}}
]}  # fmt: skip
TOOLS = [{"type": "function", "function": {"parameters": {"type": "object"}, "name": "f", "more": 1}}]
RECORDS: dict[str, dict[str, Any]] = {
    "one": {"messages": [USER]},
    "several": {"messages": [USER, ANSWER, SECOND]},
    "calls": {"messages": [USER, CALLS, {"role": "tool", "tool_call_id": "1", "content": [
        {"type": "text", "text": "x"}, {"type": "text", "text": "y"}]}], "tools": TOOLS},
    "parts, a name": {"messages": [
        {"role": "user", "name": "Ada", "content": [{"type": "text", "text": "x"}, {"type": "text", "text": "y"}]}]},
    "reasoning": {"messages": [USER, ANSWER | {"reasoning_content": "because"}, SECOND]},
    "developer": {"messages": [{"role": "developer", "content": "d"}, USER]},
    "kwargs": {"messages": [USER], "chat_template_kwargs": {"enable_thinking": False}},
}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer(target_dir: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(target_dir)


@pytest.fixture
def made(tokenizer: Any, tmp_path: Path) -> Any:
    def make(template: str, **options: Any) -> ChatTemplate:
        path = tmp_path / "template.jinja"
        path.write_text(template)
        return ChatTemplate(tokenizer, TemplateOptions(chat_template=str(path), **options))

    return make


def read(record: Any) -> Any:
    return dialog_of(record, field="prompts", where="f.jsonl:7")


@pytest.mark.vllm
@pytest.mark.parametrize("template", ALL.values(), ids=ALL.keys())
def test_text_is_the_servers(made: Any, tokenizer: Any, target_dir: Path, template: str) -> None:
    """Catches a prompt that the server would render otherwise, by vLLM's own code for the same request."""
    from vllm.config import ModelConfig
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.renderers import chat_utils, hf

    model_config, rendered = ModelConfig(str(target_dir)), made(template)
    num_compared = 0
    for record in RECORDS.values():
        request = ChatCompletionRequest(**copy.deepcopy(record))
        tools = [tool.model_dump() for tool in request.tools] if request.tools else None
        how = hf.resolve_chat_template_content_format(template, tools, "auto", tokenizer, model_config=model_config)
        messages, *_ = chat_utils.parse_chat_messages(request.messages, model_config, how)
        kwargs = request.chat_template_kwargs or {}
        try:
            expected = hf.safe_apply_chat_template(
                model_config, tokenizer, messages, tools=tools, chat_template=template, add_generation_prompt=True,
                tokenize=False, **kwargs,
            )  # fmt: skip
        except Exception as error:  # another class in other versions
            with pytest.raises(ValueError, match=f"refuses.*{error}"):
                rendered.prompt_text(read(record))
            continue
        assert rendered.prompt_text(read(record)) == expected
        num_compared += 1
    assert num_compared == (5 if template == STRICT else 7)


def test_a_line_wins_over_the_command(made: Any, tmp_path: Path) -> None:
    (tmp_path / "tools.json").write_text('[{"name": "of_the_command"}]')
    template = made(THINKING, chat_template_kwargs='{"enable_thinking": false}', tools=str(tmp_path / "tools.json"))
    text = template.prompt_text(read({"prompt": "u"}))
    assert text.endswith("<think>\n\n</think>\n")
    assert "of_the_command" in text
    own = read({"prompt": "u", "tools": TOOLS, "chat_template_kwargs": {"enable_thinking": True}})
    assert "think" not in template.prompt_text(own)
    assert "of_the_command" not in template.prompt_text(own)


def shown(template: ChatTemplate, dialog: Any) -> list[tuple[str, list[str]]]:
    """Each row's text, and its answers'."""
    decode = template.tokenizer.decode
    return [
        (decode(row.ids), [decode(row.ids[start:stop]) for start, stop in row.answers]) for row in template.rows(dialog)
    ]


@pytest.mark.parametrize("fast", [True, False])
def test_answers_of_a_conversation(made: Any, fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every answer with what ends its turn, none of what was asked, in one row."""
    template = made(CHATML)
    monkeypatch.setattr(type(template.tokenizer), "is_fast", fast)
    [(text, answers)] = shown(template, read({"messages": [USER, ANSWER, SECOND, ANSWER, USER]}))
    assert answers == ["an answer<|im_end|>"] * 2
    assert text.endswith("v<|im_end|>\n<|im_start|>assistant\nan answer<|im_end|>")


def test_reasoning_that_is_dropped_later(made: Any) -> None:
    """Each answer is learned as it is served: with its own reasoning, behind turns without theirs."""
    answers = [ANSWER | {"reasoning": "because"}, ANSWER | {"reasoning": "since"}]
    rows = shown(made(THINKING), read({"messages": [USER, answers[0], SECOND, answers[1]]}))
    assert [found for _, found in rows] == [
        ["<think>\nbecause\n</think>an answer<|im_end|>"],
        ["<think>\nsince\n</think>an answer<|im_end|>"],
    ]
    assert "because" not in rows[1][0]


def test_calls_are_answers(made: Any) -> None:
    dialog = read({"messages": [USER, CALLS, {"role": "tool", "content": "x"}, ANSWER], "tools": TOOLS})
    [(text, answers)] = shown(made(THINKING), dialog)
    assert answers == [
        '<think>\n\n</think><call>{"name": "f", "arguments": {"b": 1, "a": [2]}}</call><|im_end|>',
        "<think>\n\n</think>an answer<|im_end|>",
    ]
    assert "<result>x</result>" in text


BAD = {
    "refuses": (STRICT, {"messages": [{"role": "system", "content": "s"}, USER]}, "System role not supported"),
    "a fault of types": ("{{ messages[0].content + 1 }}", {"prompt": "u"}, "refuses user"),
    "endless": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", {"prompt": "u"}, "refuses user"),
    "a key that is not there": ("{{ messages[0].a.b }}", {"prompt": "u"}, "refuses user"),
}


@pytest.mark.parametrize(("template", "record", "message"), BAD.values(), ids=BAD.keys())
def test_what_a_template_refuses_is_one_line(made: Any, template: str, record: Any, message: str) -> None:
    """Catches the template's own exception, a traceback, in the middle of a run."""
    with pytest.raises(ValueError, match=f"^prompts: f.jsonl:7: .*{message}"):
        made(template).prompt_text(read(record))


def test_options_that_cannot_be_used(made: Any, tokenizer: Any, tmp_path: Path) -> None:
    """Catches a misspelled variable that leaves the target in its other mode."""
    for bad in ("{", "[1]", '{"tokenize": true}'):
        with pytest.raises(ValueError, match=r"^chat_template_kwargs: expected"):
            TemplateOptions(chat_template_kwargs=bad)
    with pytest.raises(ValueError, match=r"^chat_template_kwargs: .*enable_thinking.*, got enable_thinkin$"):
        made(THINKING, chat_template_kwargs='{"enable_thinkin": true}')
    with pytest.raises(ValueError, match=r"^chat_template: expected a chat template in Jinja"):
        made("{% for %}")
    with pytest.raises(ValueError, match=r"^chat_template: expected a text file"):
        ChatTemplate(tokenizer, TemplateOptions(chat_template=str(tmp_path / "absent")))


def test_without_a_template(tokenizer: Any) -> None:
    plain = ChatTemplate(tokenizer)
    assert plain.is_plain
    assert plain.prompt_ids(read({"prompt": "def f"})) == tokenizer("def f").input_ids
    for record in ({"messages": [USER, ANSWER, SECOND]}, {"prompt": "u", "system": "s"}):
        with pytest.raises(
            ValueError, match=r"f.jsonl:7: expected one message of the user for a target without a chat"
        ):
            plain.prompt_text(read(record))
    with pytest.raises(ValueError, match="expected a target with a chat template, this one has none"):
        plain.rows(read({"messages": [USER, ANSWER]}))


def test_text_in_parts_alone(made: Any) -> None:
    """Catches a question that such a template renders as nothing."""
    assert made(PARTS).prompt_text(read({"prompt": "u"})) == "USER: u\nASSISTANT:"


def test_what_a_template_does_not_read_is_told(made: Any, tokenizer: Any) -> None:
    """Catches tools that a target never sees, without a word."""
    dialogs = [read(RECORDS["calls"]), read({"prompt": "u", "chat_template_kwargs": {"mood": 1}})]
    assert made(CHATML).passed_over(dialogs) == ["mood", "tool_calls", "tools"]
    assert made(THINKING).passed_over(dialogs[:1]) == []
    assert ChatTemplate(tokenizer).passed_over(dialogs) == []


def test_what_is_read_is_no_word_of_the_source(made: Any, tmp_path: Path) -> None:
    """Catches names and tools held for read since a "namespace" or a tag is spelled alike, and the command's tools."""
    (tmp_path / "tools.json").write_text('[{"name": "f", "parameters": {}}]')
    dialogs = [read({"messages": [{"role": "user", "content": "u", "name": "Ann"}]})]
    alike = "{% set ns = namespace(tools=1) %}" + CHATML
    assert made(alike, tools=str(tmp_path / "tools.json")).passed_over(dialogs) == ["name", "tools"]
    assert made("{% for one in messages %}{{ one.name }}: {{ one.content }}{% endfor %}").passed_over(dialogs) == []
    assert made(CHATML).note_of_passed_over(dialogs).startswith("the chat template reads no name: ")


def test_advice_is_what_helps(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches "give a chat_template" where the command forbids one, or where the target has one."""
    dialog = read({"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]})
    with pytest.raises(ValueError, match="give a chat_template"):
        ChatTemplate(tokenizer, plain=True).prompt_text(dialog)
    monkeypatch.setattr(tokenizer, "chat_template", CHATML)
    with pytest.raises(ValueError, match="leave out no_chat_template"):
        ChatTemplate(tokenizer, plain=True).prompt_text(dialog)
