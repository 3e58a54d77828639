"""Records of every layout that people have, and the place of every fault in them."""

from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest

from vllm_mtp.training.data.chat.layouts import dialog_of

ANSWER = {"role": "assistant", "content": "a"}
USER = {"role": "user", "content": "u"}
WEATHER = {"name": "weather", "description": "of a city", "parameters": {"type": "object"}}
TOOL = {"type": "function", "function": WEATHER}
CALL = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": {"city": "Rome"}}}


def call(arguments: Any) -> dict[str, Any]:
    return {"id": "1", "type": "function", "function": {"name": "weather", "arguments": arguments}}


def read(record: Any) -> Any:
    return dialog_of(record, field="prompts", where="f.jsonl:7")


LAYOUTS = {
    "prompt": ({"prompt": "u"}, [USER]),
    "prompt of messages": ({"prompt": [USER], "completion": [ANSWER]}, [USER, ANSWER]),
    "prompt and completion": ({"prompt": "u", "completion": "a"}, [USER, ANSWER]),
    "alpaca": (
        {"instruction": "Sum up", "input": "t", "output": "a"},
        [{"role": "user", "content": "Sum up\nt"}, ANSWER],
    ),
    "alpaca without input": ({"instruction": "u", "input": "", "output": "a"}, [USER, ANSWER]),
    "dolly": (
        {"instruction": "u", "context": "c", "response": "a"},
        [{"role": "user", "content": "u\nc"}, ANSWER],
    ),
    "openai": ({"messages": [USER, ANSWER]}, [USER, ANSWER]),
    "openai request": ({"custom_id": "1", "body": {"model": "m", "messages": [USER]}}, [USER]),
    "the whole beside its first message": ({"prompt": "u", "messages": [USER, ANSWER]}, [USER, ANSWER]),
    "sharegpt": (
        {"conversations": [{"from": "human", "value": "u"}, {"from": "gpt", "value": "a"}], "system": "s"},
        [{"role": "system", "content": "s"}, USER, ANSWER],
    ),
    "sharegpt with openai's keys": ({"conversations": [USER, ANSWER]}, [USER, ANSWER]),
    "sharegpt calls": (
        {"conversations": [
            {"from": "human", "value": "u"},
            {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "Rome"}}'},
            {"from": "observation", "value": "sunny"},
        ]},
        [
            USER,
            {"role": "assistant", "content": "", "tool_calls": [
                {"type": "function", "function": {"name": "weather", "arguments": {"city": "Rome"}}}
            ]},
            {"role": "tool", "content": "sunny"},
        ],
    ),
    "null content, nulls of a table": (
        {"messages": [USER, {"role": "assistant", "content": None, "name": None, "tool_calls": [CALL]}]},
        [USER, {"role": "assistant", "content": "", "tool_calls": [CALL]}],
    ),
    "arguments as text": (
        {"messages": [USER, {"role": "assistant", "tool_calls": [call('{"city": "Rome"}'), call("")]}]},
        [USER, {"role": "assistant", "content": "", "tool_calls": [CALL, call({})]}],
    ),
    "earlier spelling of calls": (
        {"messages": [USER, {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
                      {"role": "function", "name": "f", "content": "1"}]},
        [USER, {"role": "assistant", "content": "", "tool_calls": [
            {"type": "function", "function": {"name": "f", "arguments": {}}}
        ]}, {"role": "tool", "name": "f", "content": "1"}],
    ),
    "parts": (
        {"messages": [{"role": "user", "content": ["a", {"type": "input_text", "text": "b"}]}]},
        [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}],
    ),
    "reasoning": (
        {"messages": [USER, ANSWER | {"reasoning": "r"}]},
        [USER, ANSWER | {"reasoning": "r", "reasoning_content": "r"}],
    ),
    "messages as text": ({"messages": '[{"role": "user", "content": "u"}]'}, [USER]),
    "a number as answer": ({"prompt": "2+2?", "answer": 4}, [{"role": "user", "content": "2+2?"},
                                                            {"role": "assistant", "content": "4"}]),
    "an empty answer is none": ({"instruction": "u", "output": " ", "response": "a"}, [USER, ANSWER]),
    "refusal": ({"messages": [USER, {"role": "assistant", "content": None, "refusal": "a"}]}, [USER, ANSWER]),
    "system under another name": ({"prompt": "u", "system_prompt": "s"}, [{"role": "system", "content": "s"}, USER]),
    "system said twice": (
        {"messages": [{"role": "system", "content": "s"}, USER], "system": "s"},
        [{"role": "system", "content": "s"}, USER],
    ),
    "system said twice, in parts": (
        {"messages": [{"role": "system", "content": ["s"]}, USER], "system": "s"},
        [{"role": "system", "content": [{"type": "text", "text": "s"}]}, USER],
    ),
    "context of a prompt": ({"prompt": "u", "context": ["b", "c"]}, [{"role": "user", "content": "u\nb\nc"}]),
    "a prompt that has its context": (
        {"prompt": "By the text 'b c': u", "context": "b c"}, [{"role": "user", "content": "By the text 'b c': u"}]
    ),
    "a prompt made of its parts": ({"prompt": "u", "instruction": "i", "input": "j", "output": "a"}, [USER, ANSWER]),
    "answer beside messages": ({"messages": [USER], "response": "a"}, [USER, ANSWER]),
    "answer in the messages": ({"messages": [USER, ANSWER], "answer": "b"}, [USER, ANSWER]),
    "values of a table": (
        {"messages": [USER | {"at": datetime(2024, 5, 1), "n": Decimal("1.5"), "m": Decimal(2)}]},
        [USER | {"at": "2024-05-01T00:00:00", "n": 1.5, "m": 2}],
    ),
    "a key of the template's own": ({"messages": [USER | {"mood": "good"}]}, [USER | {"mood": "good"}]),
}  # fmt: skip


@pytest.mark.parametrize(("record", "messages"), LAYOUTS.values(), ids=LAYOUTS.keys())
def test_every_layout(record: Any, messages: list[Any]) -> None:
    """Catches what a record says being dropped: calls, results, names, reasoning, the answer beside a prompt."""
    found = read(record)
    assert list(found.messages) == messages
    assert (found.where, found.unanswered) == ("f.jsonl:7", False)


def test_what_stands_beside_messages() -> None:
    found = read({
        "turns": ["u"], "category": "qa", "tools": '[{"name": "weather", "parameters": {}}]',
        "chat_template_kwargs": {"enable_thinking": False}, "reasoning_effort": "low",
    })  # fmt: skip
    assert (found.unanswered, found.category) == (True, "qa")
    # As the server's own dump, whose text is in the prompt.
    function = {"name": "weather", "description": None, "parameters": {}}
    assert found.tools == ({"type": "function", "function": function},)
    assert found.template_kwargs == {"reasoning_effort": "low", "enable_thinking": False}
    assert read({"messages": [USER], "tools": [TOOL]}).tools == (TOOL,)
    assert read({"messages": [USER], "tools": []}).tools is None


BAD = {
    "no object": ([], "expected an object with one of"),
    "no layout": ({"text": "x"}, 'expected an object with one of .*, got one with text'),
    "prompt": ({"prompt": 3}, 'expected text as "prompt", got 3'),
    "blank": ({"prompt": " "}, "expected text"),
    "no turns": ({"turns": []}, "expected a list of texts"),
    "empty turn": ({"turns": ["x", ""]}, "expected text as turn 2"),
    "no messages": ({"messages": []}, "expected a list of messages"),
    "text for a message": ({"messages": ["x"]}, "message 1: expected an object"),
    "no role": ({"messages": [USER, {"content": "x"}]}, 'message 2: expected a "role"'),
    "empty user": ({"messages": [{"role": "user", "content": None}]}, r"message 1 \(user\): expected text, got none"),
    "empty answer": ({"messages": [USER, {"role": "assistant", "content": ""}]}, r"message 2 \(assistant\)"),
    "number": ({"messages": [{"role": "user", "content": 3}]}, 'expected a "content" that is text'),
    "image": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        "got a part of type image_url",
    ),
    "speaker": ({"conversations": [{"from": "martian", "value": "x"}]}, 'as "from", got "martian"'),
    "arguments": ({"messages": [USER, {"role": "assistant", "tool_calls": [call("{bad")]}]}, "an object as"),
    "arguments of a kind": ({"messages": [USER, {"role": "assistant", "tool_calls": [call("[1]")]}]}, "an object as"),
    "call": ({"messages": [USER, {"role": "assistant", "tool_calls": ["x"]}]}, 'expected a "function"'),
    "calls": ({"messages": [USER, {"role": "assistant", "tool_calls": "x"}]}, 'a list as "tool_calls"'),
    "tools": ({"messages": [USER], "tools": "{"}, 'expected a list as "tools"'),
    "tool": ({"messages": [USER], "tools": [{"type": "function"}]}, 'tools with a "function"'),
    "kwargs": ({"messages": [USER], "chat_template_kwargs": [1]}, 'an object as "chat_template_kwargs"'),
    "reserved": ({"messages": [USER], "chat_template_kwargs": {"tokenize": True}}, "got tokenize, which is none"),
    "surrogate": ({"prompt": "bad \ud83d here"}, r"half of a surrogate pair \(U\+D83D\)"),
    "surrogate in a tool": ({"messages": [USER], "tools": [{"name": "\ud83d"}]}, "half of a surrogate pair"),
    "bytes": ({"messages": [USER | {"sound": b"x"}]}, r'message 1 \(user\): "sound": expected JSON data'),
    "bytes of a tool": ({"messages": [USER], "tools": [{"name": "f", "x": b"x"}]}, '"tools": expected JSON data'),
    "context beside messages": ({"prompt": [USER], "context": "c"}, "expected all that is asked in the messages"),
    "context of a kind": ({"prompt": "u", "context": {"title": "t"}}, 'expected text as "context"'),
    "no text as answer": ({"prompt": "u", "answer": True}, 'expected text as "answer", got true'),
    "two names": ({"prompt": "u", "system": "s", "system_prompt": "t"}, "one message of a system"),
    "two systems": ({"messages": [{"role": "system", "content": "s"}, USER], "system": "t"}, "one message of a system"),
}  # fmt: skip


@pytest.mark.parametrize(("record", "message"), BAD.values(), ids=BAD.keys())
def test_a_bad_record_is_named(record: Any, message: str) -> None:
    """Catches a traceback, or a record that is taken for something else."""
    with pytest.raises(ValueError, match=f"^prompts: f.jsonl:7.*{message}"):
        read(record)


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "u", "answer": True},
        {"instruction": "u", "output": ""},
        {"messages": [USER, {"role": "assistant", "content": None}]},
        {"conversations": [{"from": "human", "value": "u"}, {"from": "gpt", "value": " ", "weight": 1}]},
    ],
)
def test_an_answer_that_is_not_needed(record: Any) -> None:
    """Catches a question that is not asked for what somebody once answered."""
    assert dialog_of(record, field="prompts", where="f.jsonl:7", answers=False).messages == (USER,)


def test_what_is_answered() -> None:
    """Catches a history that is cut, a turn that is never asked, results without their call."""
    calls = {"role": "assistant", "content": "", "tool_calls": [CALL]}
    result, second = {"role": "tool", "content": "sunny"}, {"role": "user", "content": "v"}
    system = {"role": "system", "content": "s"}
    whole = read({"messages": [system, USER, calls, result, ANSWER, second, ANSWER]})
    given = (system, USER, calls, result)
    assert whole.rounds() == ((*given, ANSWER, second),)
    assert whole.rounds("all") == (given, (second,))
    assert read({"turns": ["u", "v"], "system": "s"}).rounds() == ((system, USER), (second,))
    greeting = read({"messages": [ANSWER, USER]})
    assert greeting.rounds("all") == greeting.rounds() == ((ANSWER, USER),)
    with pytest.raises(ValueError, match=r"f.jsonl:7: expected a message of the user to be answered, got only system"):
        read({"messages": [system]}).rounds()
