"""Conversations that exist, as rows whose answers count.

Catches: a question that the drafter is trained on, an answer that is not, all answers but the last passed over, a bad
line in the middle that ends in a traceback or takes others with it.
"""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from vllm_mtp.training.data.rows import Row, Source
from vllm_mtp.training.data.sources import read_sources

TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
ROUNDS = [("What is a goat?", "An animal with horns."), ("And a boat?", "It floats on water.")]
VOCAB_SIZE = 300


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """One token for each byte, and "<|end|>"."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bytes_of = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(["<|end|>", *alphabet])}, merges=[]))
    bytes_of.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_of.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=bytes_of, eos_token="<|end|>")
    made.chat_template = TEMPLATE
    return made


def messages(rounds: list[tuple[str, str]] = ROUNDS) -> list[dict[str, str]]:
    return [
        {"role": role, "content": text}
        for asked_and_answered in rounds
        for role, text in zip(("user", "assistant"), asked_and_answered, strict=True)
    ]


def written(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def source_of(path: Path, tokenizer: Any, *, max_tokens: int = 10_000, **how: Any) -> Source:
    [source] = read_sources([path], tokenizer, 400, max_tokens, **{"vocab_size": VOCAB_SIZE, **how})
    return source


def counted(row: Row, tokenizer: Any) -> list[str]:
    """The stretches of text that the loss counts."""
    changes_L = row.counts_L.int().diff(prepend=torch.zeros(1, dtype=torch.int32)).nonzero().flatten().tolist()
    ends = [*changes_L, len(row.counts_L)] if len(changes_L) % 2 else changes_L
    return [tokenizer.decode(row.ids_L[a:b]) for a, b in zip(ends[::2], ends[1::2], strict=True)]


def test_every_answer_counts_and_nothing_else(tmp_path: Path, tokenizer: Any) -> None:
    source = source_of(written(tmp_path / "a.jsonl", {"messages": messages()}), tokenizer)
    [row] = source.rows
    text = tokenizer.decode(row.ids_L)
    assert text == tokenizer.apply_chat_template(messages(), tokenize=False).strip()
    assert counted(row, tokenizer) == [f"{answer}<|end|>" for _, answer in ROUNDS]
    [whole] = source_of(tmp_path / "a.jsonl", tokenizer, loss_on="all").rows
    assert counted(whole, tokenizer) == [text[1:]]


@pytest.mark.parametrize(
    "record",
    [
        {"conversations": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "Because of the wind."}]},
        {"prompt": "Why?", "completion": "Because of the wind."},
        {"prompt": [{"role": "user", "content": "Why?"}],
         "completion": [{"role": "assistant", "content": "Because of the wind."}]},
        {"instruction": "Why?", "input": "", "output": "Because of the wind."},
        {"question": "Why?", "answer": "Because of the wind."},
        {"query": "Why?", "response": "Because of the wind."},
        {"conversation": messages([("Why?", "Because of the wind.")]), "language": "English"},
        {"input": "Why?", "output": "Because of the wind.", "text": "rendered elsewhere"},
        {"messages": messages([("Why?", "Because of the wind.")]), "prompt": "Why?", "text": "rendered elsewhere"},
    ],
)  # fmt: skip
def test_every_layout(tmp_path: Path, tokenizer: Any, record: dict[str, Any]) -> None:
    [row] = source_of(written(tmp_path / "a.jsonl", record), tokenizer).rows
    assert tokenizer.decode(row.ids_L) == "<|user|>Why?<|end|>\n<|assistant|>Because of the wind.<|end|>"
    assert counted(row, tokenizer) == ["Because of the wind.<|end|>"]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"prompt": "Why?"}, "expected an answer of an assistant"),
        ({"turns": ["Why?", "How?"]}, "expected an answer of an assistant"),
        ({"messages": messages()[:1]}, "expected an answer of an assistant"),
        ({"messages": []}, "expected a list of messages"),
        ({"text": "a document among conversations"}, "expected an object with one of"),
        ({"prompt": "Why?", "completion": "half a pair \ud83d"}, "half of a surrogate pair"),
        ({"messages": [{"role": "user", "content": 3}]}, 'expected a "content"'),
        ([], "expected an object"),
    ],
)
def test_a_bad_record_is_named_or_left_out_and_counted(
    tmp_path: Path, tokenizer: Any, record: Any, message: str
) -> None:
    good = {"messages": messages()}
    path = written(tmp_path / "a.jsonl", good, record, good)
    with pytest.raises(ValueError, match=rf"^data: .*a\.jsonl:2.*{message}"):
        source_of(path, tokenizer)
    source = source_of(path, tokenizer, skip_bad=True)
    assert len(source.rows) == 2
    assert (source.num_bad, f"{path}:2" in source.first_bad) == (1, True)
    assert f"bad records left out: 1, the first: {source.first_bad}" in str(source)
    # At the beginning too, where it decides what the file is taken for.
    path = written(tmp_path / "b.jsonl", record, good, good)
    if "text" not in record:
        assert len(source_of(path, tokenizer, skip_bad=True).rows) == 2


def test_records_of_no_layout_are_refused(tmp_path: Path, tokenizer: Any) -> None:
    """Catches JSON trained on as it is, or a message that blames something else."""
    path = written(tmp_path / "a.jsonl", {"body": "x", "title": "y", "messages": None})
    with pytest.raises(ValueError, match=r'^data: .*a\.jsonl:1: expected a document \("text"\) or .*got .* title'):
        source_of(path, tokenizer)
    with pytest.raises(ValueError, match=r"a\.jsonl holds no record that can be used: .*a\.jsonl:1"):
        source_of(path, tokenizer, skip_bad=True)


def test_long_conversations_are_cut_and_only_so_much_is_read(tmp_path: Path, tokenizer: Any) -> None:
    record = {"messages": messages([("x" * 90, "y" * 20), ("x", "z" * 900)])}
    path = written(tmp_path / "a.jsonl", *[record] * 4, {"messages": messages([("x" * 900, "y")])})
    source = source_of(path, tokenizer)
    assert [len(row.ids_L) for row in source.rows] == [400] * 4
    assert counted(source.rows[0], tokenizer)[0] == "y" * 20 + "<|end|>"
    assert (source.num_left_out, source.num_too_short) == (1, 0)
    lost = source.num_cut_tokens
    assert (source.num_cut, lost > 4 * 500) == (4, True)
    assert f"4 conversations cut at the end of a row ({lost:,} tokens left out" in str(source)
    source = source_of(path, tokenizer, max_tokens=700)
    assert (len(source.rows), source.complete) == (2, False)
    assert len({row.conversation for row in source.rows}) == 2


def test_files_of_a_folder_that_were_not_read_are_told(tmp_path: Path, tokenizer: Any) -> None:
    """Catches a drafter of the first of three languages, with nothing said."""
    for name in "abc":
        written(tmp_path / f"{name}.jsonl", *[{"messages": messages()}] * 300)
    source = source_of(tmp_path, tokenizer, max_tokens=700)
    assert "its share of what is to be read, 2 further files not read" in str(source)
    assert source_of(tmp_path, tokenizer, max_tokens=10**6).num_unread == 0


def test_too_little_says_what_helps(tmp_path: Path, tokenizer: Any) -> None:
    """Catches advice of a shorter row where a longer one would have had the answers."""
    long = {"messages": messages([("x" * 900, "y")])}
    with pytest.raises(ValueError, match=r"^data: expected at least two rows .* got 0 .*Give a larger sequence_length"):
        source_of(written(tmp_path / "a.jsonl", *[long] * 3), tokenizer).check_enough()
    with pytest.raises(ValueError, match=r"^data: expected at least two rows .* got 1 .*Give more data"):
        source_of(written(tmp_path / "a.jsonl", {"messages": messages()}), tokenizer).check_enough()


def test_text_beside_the_prompt_that_it_was_written_to(tmp_path: Path, tokenizer: Any) -> None:
    """Catches synthetic documents refused for the prompt that each of them has."""
    for record in ({"prompt": "Write of bees.", "text": "bees " * 200}, {"instruction": "i", "text": "bees " * 200}):
        source = source_of(written(tmp_path / "a.jsonl", record), tokenizer)
        assert (source.name, len(source.rows)) == ("text", 2)


def test_what_the_template_does_not_read_is_told(tmp_path: Path, tokenizer: Any) -> None:
    """Catches tools that the target is trained without, unsaid."""
    record = {"messages": messages(), "tools": [{"name": "f", "parameters": {}}]}
    told = "the chat template reads no tools: the target will not see it"
    assert told in str(source_of(written(tmp_path / "a.jsonl", record), tokenizer))
    assert told not in str(source_of(written(tmp_path / "a.jsonl", {"messages": messages()}), tokenizer))


def test_a_token_that_the_embedding_lacks_is_named(tmp_path: Path, tokenizer: Any) -> None:
    """Catches the tokenizer's own token blamed on another target, and an embedding padded beyond it refused."""
    larger = copy.deepcopy(tokenizer)
    larger.add_tokens(["<|new|>"])
    path = written(tmp_path / "a.jsonl", {"messages": messages()}, {"messages": messages([("<|new|>?", "Yes, it is")])})
    for num_rows in (258, 320):
        assert len(source_of(path, larger, vocab_size=num_rows).rows) == 2
    message = r"token 257 \('<\|new\|>'\) has no row .* the tokenizer has 258 tokens, the embedding 257 rows"
    with pytest.raises(ValueError, match=rf"^data: .*a\.jsonl:2: {message}"):
        source_of(path, larger, vocab_size=257)
    assert source_of(path, larger, vocab_size=257, skip_bad=True).num_bad == 1
    text = tmp_path / "a.txt"
    text.write_text("a <|new|> thing " * 90)
    with pytest.raises(ValueError, match=rf"^data: text: {message}"):
        source_of(text, larger, vocab_size=257)


def test_a_target_without_a_chat_template(tmp_path: Path, tokenizer: Any) -> None:
    path = written(tmp_path / "a.jsonl", {"messages": messages()})
    tokenizer.chat_template = None
    try:
        with pytest.raises(ValueError, match=r"^data: .*a\.jsonl:1: expected a target with a chat template"):
            source_of(path, tokenizer)
    finally:
        tokenizer.chat_template = TEMPLATE


def test_a_system_under_another_name(tmp_path: Path, tokenizer: Any) -> None:
    record = {"system_prompt": "Be brief.", "question": "Why?", "response": "Because of the wind."}
    [row] = source_of(written(tmp_path / "a.jsonl", record), tokenizer).rows
    assert tokenizer.decode(row.ids_L).startswith("<|system|>Be brief.<|end|>\n<|user|>Why?<|end|>")
