"""`vllm-mtp generate`: what is asked, what is kept, and that a killed run ends with the same set.

Catches: a prompt that counts as answer, a loop that is kept, a batch that depends on the ones before it, settings that
change in the middle of a run, bad input found after the engine has started.
"""

import json
import shutil
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vllm_mtp.cli import main
from vllm_mtp.common.engine_options import EngineOptions
from vllm_mtp.training.data import generate as generate_file
from vllm_mtp.training.data.conversations import load_conversations
from vllm_mtp.training.data.generate import Asked, Start, generate
from vllm_mtp.training.data.generate_config import GenerateConfig

TEMPLATE = (
    "{% for message in messages %}# {{ message['role'] }}\n{{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}# assistant\n{% endif %}"
)


@pytest.fixture(scope="session")
def chat_target(target_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The target with a chat template."""
    folder = tmp_path_factory.mktemp("chat") / "target"
    shutil.copytree(target_dir, folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"def function_{i}(self):"}) + "\n" for i in range(7)))
    return path


class ScriptedEngine:
    """Stands in for vLLM: user turns and answers by rule."""

    def __init__(self) -> None:
        self.calls: list[tuple[list[Any], Any]] = []

    def generate(self, prompts: list[Any], params: Any, use_tqdm: bool) -> list[Any]:
        self.calls.append((prompts, params))
        return [self._output(number, isinstance(params, list)) for number in range(len(prompts))]

    def _output(self, number: int, is_answer: bool) -> Any:
        if is_answer:
            ids = {0: [5], 1: [7, 8] * 60}.get(number, [100 + number, *range(20)])  # empty, a loop, an answer
            return SimpleNamespace(outputs=[SimpleNamespace(token_ids=ids)])
        text, reason = (" What is it? ", "stop") if number != 1 else ("What is", "length")
        return SimpleNamespace(outputs=[SimpleNamespace(text=text, token_ids=[1, 2], finish_reason=reason)])


@pytest.mark.vllm
def test_a_target_that_asks_itself(chat_target: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(chat_target)
    engine, config = ScriptedEngine(), GenerateConfig(self_prompts=4, temperature=(0.0, 0.9), max_tokens=150)
    asked = Asked(({"role": "user", "content": "def f"},))
    long = Asked(({"role": "user", "content": "word " * 3000},))
    batch = [asked, Start(""), Start(""), long, Start("Sum up:"), asked]
    kept, counts = generate_file._generate_batch(engine, tokenizer, batch, config, 0)
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
    expected = {"asked": 6, "unusable_user_turns": 1, "too_long": 1, "empty": 1, "loops": 1, "generated_tokens": 169}
    assert counts == expected


@pytest.mark.vllm
def test_a_batch_made_again_is_the_same(chat_target: Path, questions: Path, tmp_path: Path) -> None:
    config = GenerateConfig(
        temperature=(0.0, 1.0), max_tokens=24, batch_size=4, max_num_seqs=4, max_model_len=128, dtype="float32"
    )
    output = tmp_path / "set"
    arguments: dict[str, Any] = {"target": str(chat_target), "prompts": [questions], "show_progress": False}
    info = generate(config, output=output, argv=["generate", str(output)], **arguments)
    assert info["argv"] == ["generate", "set"]  # no path of this machine
    first = load_conversations(output)
    assert info["num_conversations"] == len(first) > 3
    assert info["num_answer_tokens"] == sum(len(c.answer) for c in first)
    assert {c.temperature for c in first} == {0.0, 1.0}
    # As if it had been killed while it wrote the second batch.
    for name in ("run_info.json", "conversations.npz", "batches/00001.npz"):
        (output / name).unlink()
    generate(config, output=output, **arguments)
    assert load_conversations(output) == first
    # Finished, it is left alone, and other settings are refused.
    assert generate(config, output=output, **arguments)["num_conversations"] == len(first)
    with pytest.raises(ValueError, match="holds conversations with other settings"):
        generate(GenerateConfig(seed=1), output=output, **arguments)


@pytest.mark.vllm
def test_killed_between_the_two_files_of_a_batch(
    chat_target: Path, questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a batch that counts as finished while its counts are missing."""
    write = generate_file.write_atomically

    def full_disk(path: Path, content: str) -> None:
        if path.name == "00001.json":
            raise OSError("No space left on device")
        write(path, content)

    config = GenerateConfig(batch_size=4, max_tokens=150, dtype="float32")
    arguments: dict[str, Any] = {"target": str(chat_target), "prompts": [questions], "show_progress": False}
    monkeypatch.setattr(generate_file, "_engine", lambda *_: nullcontext(ScriptedEngine()))
    monkeypatch.setattr(generate_file, "write_atomically", full_disk)
    with pytest.raises(OSError, match="No space left"):
        generate(config, output=tmp_path / "set", **arguments)
    monkeypatch.setattr(generate_file, "write_atomically", write)
    assert generate(config, output=tmp_path / "set", **arguments)["dropped"]["asked"] == 7


@pytest.mark.vllm
def test_short_answers_can_loop_too(chat_target: Path) -> None:
    from transformers import AutoTokenizer

    class Looping(ScriptedEngine):
        def _output(self, number: int, is_answer: bool) -> Any:
            return SimpleNamespace(outputs=[SimpleNamespace(token_ids=[1, *[7, 8] * 15])])

    batch = [Asked(({"role": "user", "content": "def f"},))]
    tokenizer = AutoTokenizer.from_pretrained(chat_target)
    _, counts = generate_file._generate_batch(Looping(), tokenizer, batch, GenerateConfig(max_tokens=31), 0)
    assert counts["loops"] == 1


def test_the_command_says_what_was_dropped(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a run that keeps half of what was asked without a word."""
    counts = {"asked": 1200, "unusable_user_turns": 35, "too_long": 0, "generated_tokens": 9, "near_duplicates": 5}
    info = {"num_conversations": 1160, "num_tokens": 99999, "dropped": counts}
    monkeypatch.setattr(generate_file, "generate", lambda *args, **kwargs: info)
    assert main(["generate", "t", "--self-prompts", "1200", "--output", "out"]) == 0
    said = capsys.readouterr().out
    assert "out: 1,160 conversations of 1,200 asked, 99,999 tokens\nDropped: 35 unusable user turns, 5 near dup" in said


def test_starts_are_taken_in_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chat_target: Path) -> None:
    """Catches a start that is never used, or one whose white space at the end is lost."""
    starts = tmp_path / "starts.jsonl"
    starts.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in ("Sum up:\n\n", "Who")))
    asked: list[str] = []

    def note(llm: Any, tokenizer: Any, batch: list[Any], *_: Any) -> Any:
        asked.extend(start.text for start in batch)
        raise InterruptedError

    monkeypatch.setattr(generate_file, "_engine", lambda *_: nullcontext())
    monkeypatch.setattr(generate_file, "_generate_batch", note)
    config = GenerateConfig(self_prompts=5, dtype="float32")
    arguments: dict[str, Any] = {"target": str(chat_target), "prompts": [], "output": tmp_path / "set"}
    with pytest.raises(InterruptedError):
        generate(config, self_prompt_starts=[starts], show_progress=False, **arguments)
    assert sorted(asked) == ["Sum up:\n\n"] * 3 + ["Who"] * 2
    with pytest.raises(ValueError, match="holds conversations with other settings"):
        generate(config, show_progress=False, **arguments)


def test_engine_options_reach_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside what the command decides, under vLLM's own names."""
    given: dict[str, Any] = {}

    def make(**arguments: Any) -> Any:
        given.update(arguments)
        return SimpleNamespace(llm_engine=SimpleNamespace(engine_core=SimpleNamespace(shutdown=lambda: None)))

    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(LLM=make))  # type: ignore[arg-type]
    for name in ("VLLM_ENABLE_V1_MULTIPROCESSING", "VLLM_CPU_KVCACHE_SPACE", "VLLM_LOGGING_LEVEL"):
        monkeypatch.setenv(name, "1")
    options = EngineOptions(tensor_parallel_size=2, vllm_args='{"block_size": 32}')
    with generate_file._engine(GenerateConfig(engine_options=options), "t", "float32"):
        pass
    assert {"model": "t", "max_num_seqs": 128, "tensor_parallel_size": 2, "block_size": 32}.items() <= given.items()


ERRORS = {
    "nothing asked": ([], "--prompts: expected files, or a number of self_prompts, got neither"),
    "starts alone": (
        ["--self-prompt-starts", "a.txt", "--prompts", "a.txt"],
        "--self-prompt-starts: expected a number of self_prompts",
    ),
    "no such starts": (
        ["--self-prompts", "3", "--self-prompt-starts", "absent.txt"],
        "--self-prompt-starts: expected a text or JSONL file, got absent.txt",
    ),
    "no such file": (["--prompts", "absent.txt"], "--prompts: expected a text or JSONL file, got absent.txt"),
    "no chat template": (["--self-prompts", "3"], "--self-prompts: expected a target with a chat template"),
    "no model": (["--self-prompts", "3", "--target", "absent"], "--target: expected a causal LM's folder or Hub id"),
    "temperature": (["--self-prompts", "3", "--temperature", "-1"], "--temperature: expected at least 0, got -1.0"),
    "length": (["--self-prompts", "3", "--max-model-len", "9"], "--max-model-len: expected more than max_tokens 256"),
    "output": (["--prompts", "a.txt", "--output", "a.txt"], "--output: expected a folder, got a.txt"),
}


@pytest.mark.parametrize(("more", "message"), ERRORS.values(), ids=ERRORS.keys())
def test_bad_input_is_one_line_before_any_engine(
    more: list[str], message: str, target_dir: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(generate_file, "_engine", lambda *args: pytest.fail("started an engine"))
    (tmp_path / "a.txt").write_text("x")
    assert main(["generate", "--target", str(target_dir), "--output", "out", *more]) == 2
    assert message in capsys.readouterr().err
