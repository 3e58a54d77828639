"""What is made of a target's answers: which are kept, behind what, and in how many rows."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.training.data.chat.templates import CHATML, THINKING
from tests.training.data.scripted import ScriptedEngine
from vllm_mtp.training.data.answers import answer_batch
from vllm_mtp.training.data.chat.layouts import dialog_of, user_dialog
from vllm_mtp.training.data.chat.render import render_prompts
from vllm_mtp.training.data.chat.template import ChatTemplate
from vllm_mtp.training.data.generate_config import GenerateConfig
from vllm_mtp.training.data.questions import Start

pytestmark = pytest.mark.vllm  # for its SamplingParams
TEMPLATE = (
    "{% for message in messages %}# {{ message['role'] }}\n{{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}# assistant\n{% endif %}"
)
END = "<|im_end|>"


@pytest.fixture
def tokenizer(target_dir: Path) -> Any:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(target_dir)
    tokenizer.chat_template = TEMPLATE
    tokenizer.add_tokens([END])  # as some have it: not among the special ones
    return tokenizer


class SayingEngine(ScriptedEngine):
    """Says these texts in turn, each to one prompt."""

    def __init__(self, tokenizer: Any, *texts: str) -> None:
        super().__init__()
        self.ends = tokenizer.convert_tokens_to_ids([END])
        self.said = iter([tokenizer(text, add_special_tokens=False).input_ids for text in texts])

    def output(self, number: int, is_answer: bool) -> Any:
        ids = next(self.said)
        ended = ids[-1] in self.ends
        return SimpleNamespace(outputs=[SimpleNamespace(token_ids=ids, finish_reason="stop" if ended else "length")])


def read(record: Any) -> Any:
    return dialog_of(record, field="prompts", where="f.jsonl:7")


def test_a_target_that_asks_itself(tokenizer: Any) -> None:
    template, engine = ChatTemplate(tokenizer), ScriptedEngine()
    config = GenerateConfig(self_prompts=4, temperature=(0.0, 0.9), max_tokens=150, max_model_len=2048)
    asked, long = render_prompts(template, [user_dialog("def f"), user_dialog("word " * 3000)], show_progress=False)
    batch = [asked, Start(""), Start(""), long, Start("Sum up:"), asked]
    kept, counts = answer_batch(engine, template, batch, config, 0)
    (turn_prompts, turn_params), (answer_prompts, answer_params) = engine.calls
    prefixes = [tokenizer.decode(prompt["prompt_token_ids"]) for prompt in turn_prompts]
    assert prefixes == ["# user\n", "# user\n", "# user\nSum up:"]
    assert (turn_params.temperature, turn_params.max_tokens, turn_params.stop) == (1.0, 96, ["# assistant"])
    texts = [tokenizer.decode(prompt["prompt_token_ids"]) for prompt in answer_prompts]
    given, own = "# user\ndef f\n# assistant\n", "# user\nWhat is it?\n# assistant\n"
    assert texts == [given, own, "# user\nSum up: What is it?\n# assistant\n", given]
    assert [params.temperature for params in answer_params] == [0.0, 0.9, 0.0, 0.9]
    assert [list(conversation.answer) for conversation in kept] == [[102, *range(20)], [103, *range(20)]]
    assert kept[0].ids[: kept[0].prompt_length] == tuple(answer_prompts[2]["prompt_token_ids"])
    expected = {"asked": 6, "unusable_user_turns": 1, "too_long": 1, "empty": 1, "loops": 1, "unfinished": 0}
    assert counts == expected | {"cut": 0, "generated_tokens": 169}


def test_answers_are_kept_up_to_their_loops(tokenizer: Any) -> None:
    """Short ones too; a conversation ends there, and vLLM is asked to end such answers itself."""
    from vllm.v1.core.sched.utils import check_sequence_repetition

    class Looping(ScriptedEngine):
        def output(self, number: int, is_answer: bool) -> Any:
            ids = [*range(10), *[7, 8] * 15]
            return SimpleNamespace(outputs=[SimpleNamespace(token_ids=ids, finish_reason="length")])

    template, engine = ChatTemplate(tokenizer), Looping()
    dialogs = [user_dialog("def f"), read({"turns": ["one", "two"]})]
    batch = render_prompts(template, dialogs, show_progress=False)
    config = GenerateConfig(temperature=(0.0, 1.0), max_tokens=40, max_model_len=99)
    kept, counts = answer_batch(engine, template, batch, config, 0)
    assert [conversation.answer for conversation in kept] == [(*range(10), 7, 8)] * 2
    assert (counts["cut"], counts["loops"], counts["unfinished"], len(engine.calls)) == (2, 0, 1, 1)
    asked, of_sampled = (params.repetition_detection for params in engine.calls[0][1])
    assert of_sampled is None
    for period in range(1, 33):
        text = [*range(period)] * -(-asked.min_count * asked.max_pattern_size // period)
        assert check_sequence_repetition(text, asked)
    assert not check_sequence_repetition([*range(33)] * 4, asked)


def rows_of(template: ChatTemplate, record: Any, *texts: str, answered: str = "last") -> tuple[list[Any], Any]:
    """Each row's text with its answers', and the counts."""
    batch = render_prompts(template, [read(record)], answered=answered, show_progress=False)
    engine = SayingEngine(template.tokenizer, *texts)
    config = GenerateConfig(temperature=(0.0,), max_tokens=40, max_model_len=100)
    rows, counts = answer_batch(engine, template, batch, config, 0)
    decode = template.tokenizer.decode
    return [(decode(row.ids), [decode(row.ids[slice(*answer)]) for answer in row.answers]) for row in rows], counts


def test_turns_are_answered_in_turn(tokenizer: Any) -> None:
    """One row where the second turn goes on from the first: both answers count, the user's turn does not."""
    tokenizer.chat_template = CHATML
    [(text, answers)], counts = rows_of(
        ChatTemplate(tokenizer), {"turns": ["one", "two"]}, f"first answer{END}", f"second answer{END}"
    )
    assert answers == [f"first answer{END}", f"second answer{END}"]
    assert text == (
        f"<|im_start|>user\none{END}\n<|im_start|>assistant\nfirst answer{END}\n"
        f"<|im_start|>user\ntwo{END}\n<|im_start|>assistant\nsecond answer{END}"
    )
    assert counts["unfinished"] == 0


def test_reasoning_that_the_next_turn_does_not_see(tokenizer: Any) -> None:
    """Two rows where the template drops the reasoning, each as it is served."""
    tokenizer.chat_template = THINKING.replace("{{ message.content }}", "{{ message.content.split('</think>')[-1] }}")
    template = ChatTemplate(tokenizer)
    rows, _ = rows_of(template, {"turns": ["one", "two"]}, "<think>\nwhy\n</think>first", "<think>\nso\n</think>second")
    assert [answers for _, answers in rows] == [
        ["<think>\nwhy\n</think>first"],
        ["<think>\nso\n</think>second"],
    ]
    assert "why" not in rows[1][0]
    assert "first" in rows[1][0]


def test_answers_that_exist(tokenizer: Any) -> None:
    """Kept as history, or written anew where that is asked."""
    user, answer = {"role": "user", "content": "one"}, {"role": "assistant", "content": "theirs"}
    record = {"messages": [user, answer, {"role": "user", "content": "two"}, answer]}
    template = ChatTemplate(tokenizer)
    rows, _ = rows_of(template, record, "the target's own")
    assert [(text.count("theirs"), answers) for text, answers in rows] == [(1, ["the target's own"])]
    rows, _ = rows_of(template, record, "the target's own", "and another", answered="all")
    assert [text.count("theirs") for text, _ in rows] == [0] * len(rows)
    assert [answer for _, answers in rows for answer in answers] == ["the target's own", "and another"]


def test_a_turn_that_cannot_be_answered_ends_the_conversation(tokenizer: Any) -> None:
    """What was answered before is kept."""
    rows, counts = rows_of(ChatTemplate(tokenizer), {"turns": ["one", "word " * 90, "three"]}, "a fine answer")
    assert [answers for _, answers in rows] == [["a fine answer"]]
    assert (counts["unfinished"], counts["too_long"]) == (1, 0)
