"""`vllm-mtp generate`: what is asked, what is kept, and that a killed run ends with the same set.

Catches: a prompt that counts as answer, a loop that is kept, a batch that depends on the ones before it, settings that
change in the middle of a run, bad input found after the engine has started.
"""

import json
import shutil
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.training.data.scripted import ScriptedEngine
from vllm_mtp.cli import main
from vllm_mtp.common.engine_options import EngineOptions
from vllm_mtp.common.errors import InputError
from vllm_mtp.training.data import generate as generate_file
from vllm_mtp.training.data.conversations import load_conversations
from vllm_mtp.training.data.generate import generate
from vllm_mtp.training.data.generate_config import GenerateConfig
from vllm_mtp.training.data.records import BadRecords

TEMPLATE = (
    "{% for message in messages %}# {{ message['role'] }}\n{{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}# assistant\n{% endif %}"
)


@pytest.fixture(scope="session")
def chat_target(whole_target_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The target with a chat template."""
    folder = tmp_path_factory.mktemp("chat") / "target"
    shutil.copytree(whole_target_dir, folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"def function_{i}(self):"}) + "\n" for i in range(7)))
    return path


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
    info = generate(config, output=output, **arguments)
    assert load_conversations(output) == first
    assert info["longest"] == max(len(c.ids) for c in first)
    # As if memory had been too short for the filter: without it the same batches do.
    num_near = info["dropped"]["near_duplicates"]
    (output / "run_info.json").unlink()
    for share, more in ((1.0, num_near), (config.near_duplicates, 0)):
        info = generate(replace(config, near_duplicates=share), output=output, **arguments)
        assert info["num_conversations"] == len(first) + more
        (output / "run_info.json").unlink()
    generate(config, output=output, **arguments)
    assert num_near > 0
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
    assert (tmp_path / "set" / "settings.json").exists()
    monkeypatch.setattr(generate_file, "write_atomically", write)
    assert generate(config, output=tmp_path / "set", **arguments)["dropped"]["asked"] == 7


@pytest.mark.vllm
def test_a_damaged_batch_is_made_again(
    chat_target: Path,
    questions: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Catches hours of answers that cannot be joined because of one file that a full disk or a power cut spoiled."""
    config = GenerateConfig(batch_size=4, max_tokens=150, dtype="float32")
    arguments: dict[str, Any] = {"target": str(chat_target), "prompts": [questions], "show_progress": False}
    monkeypatch.setattr(generate_file, "_engine", lambda *_: nullcontext(ScriptedEngine()))
    output = tmp_path / "set"
    generate(config, output=output, **arguments)
    first = load_conversations(output)
    (output / "run_info.json").write_text("{")
    with pytest.raises(ValueError, match=r"^output: .*run_info\.json is not valid JSON.* Delete that file"):
        generate(config, output=output, **arguments)
    for content in ("{}", "[]", '{"config": 1}'):
        (output / "run_info.json").write_text(content)
        with pytest.raises(ValueError, match=r"^output: .*run_info\.json is not what `vllm-mtp generate` writes"):
            generate(config, output=output, **arguments)
    (output / "run_info.json").unlink()
    settings = (output / "settings.json").read_text()
    (output / "settings.json").write_text("{}")
    with pytest.raises(ValueError, match=r"^output: .*settings\.json is not what .* Restore it"):
        generate(config, output=output, **arguments)
    (output / "settings.json").write_text(settings)
    (output / "run_info.json").touch()
    for name, damage in (("00000.npz", b"PK"), ("00001.json", b""), ("00001.json", b"[]")):
        (output / "run_info.json").unlink()
        (output / "batches" / name).write_bytes(damage)
        generate(config, output=output, **arguments)
        assert load_conversations(output) == first
    assert ["batch 0 is made again" in caplog.text, "batch 1 is made again" in caplog.text] == [True, True]


def test_the_command_says_what_was_dropped(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a run that keeps half of what was asked without a word."""
    counts = {"asked": 1200, "unusable_user_turns": 35, "too_long": 0, "generated_tokens": 9, "near_duplicates": 5}
    info = {"num_conversations": 1160, "num_tokens": 99999, "dropped": counts}
    monkeypatch.setattr(generate_file, "generate", lambda *args, **kwargs: info)
    assert main(["generate", "t", "--self-prompts", "1200", "--output", "out"]) == 0
    said = capsys.readouterr().out
    assert "out: 1,160 conversations of 1,200 asked, 99,999 tokens\nDropped: 35 unusable user turns, 5 near dup" in said
    train = "Train on them: vllm-mtp train t --data out --tokens 399996 "
    assert f"{train}--store" in said
    info |= {"longest": 1800}
    assert main(["generate", "t", "--self-prompts", "1200", "--output", "out"]) == 0
    assert f"{train}--sequence-length 1856 --batch-size 2 --store" in capsys.readouterr().out, (
        "or the ends of rows would be cut off"
    )


def test_starts_are_taken_in_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chat_target: Path) -> None:
    """Catches a start that is never used, or one whose white space at the end is lost."""
    starts = tmp_path / "starts.jsonl"
    starts.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in ("Sum up:\n\n", "Who")))
    asked: list[str] = []

    def note(llm: Any, template: Any, batch: list[Any], *_: Any) -> Any:
        asked.extend(start.text for start in batch)
        raise InterruptedError

    monkeypatch.setattr(generate_file, "_engine", lambda *_: nullcontext())
    monkeypatch.setattr(generate_file, "answer_batch", note)
    config = GenerateConfig(self_prompts=5, dtype="float32")
    arguments: dict[str, Any] = {"target": str(chat_target), "prompts": [], "output": tmp_path / "set"}
    with pytest.raises(InterruptedError):
        generate(config, self_prompt_starts=[starts], show_progress=False, **arguments)
    assert sorted(asked) == ["Sum up:\n\n"] * 3 + ["Who"] * 2


@pytest.mark.vllm
def test_a_start_that_fails_leaves_the_folder_free(
    chat_target: Path, questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a corrected command that is refused, since the first one's settings were written."""

    def fail(*_: Any) -> Any:
        raise RuntimeError("no memory")

    target = shutil.copytree(chat_target, tmp_path / "target")
    arguments: dict[str, Any] = {"target": str(target), "prompts": [questions], "output": tmp_path / "set"}
    monkeypatch.setattr(generate_file, "_engine", fail)
    with pytest.raises(RuntimeError, match="no memory"):
        generate(GenerateConfig(dtype="float32"), show_progress=False, **arguments)
    assert not [path for path in (tmp_path / "set").rglob("*") if path.is_file()]
    monkeypatch.setattr(generate_file, "_engine", lambda *_: nullcontext(ScriptedEngine()))
    config = GenerateConfig(max_tokens=150, dtype="float32")
    info = generate(config, show_progress=False, **arguments)
    assert info["config"]["max_model_len"] == 1024, "the target's context"
    for other in (GenerateConfig(max_tokens=150, near_duplicates=0.9), GenerateConfig(max_tokens=150, turns="all")):
        with pytest.raises(ValueError, match="holds conversations with other settings"):
            generate(other, show_progress=False, **arguments)
    (target / "chat_template.jinja").write_text("Be brief." + TEMPLATE)
    with pytest.raises(ValueError, match=r"with other settings \(chat_template_sha256\)"):
        generate(config, show_progress=False, **arguments)


@pytest.mark.vllm
def test_bad_prompts_are_left_out(
    chat_target: Path, questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Catches a bad prompt that is found in the middle of a run, and one that is left out without a word."""
    engines: list[ScriptedEngine] = []

    def engine(*_: Any) -> Any:
        engines.append(ScriptedEngine())
        return nullcontext(engines[-1])

    with questions.open("a") as file:
        file.write('{"prompt": "bad \\ud83d here"}\n')
        file.write('{"messages": [{"role": "user", "content": {"no": "text"}}]}\n')
        file.write('{"turns": ["fine", "refused"]}\n')
    template = chat_target / "strict.jinja"
    template.write_text(TEMPLATE + "{% if messages[-1]['content'] == 'refused' %}{{ 1 + 'x' }}{% endif %}")
    monkeypatch.setattr(generate_file, "_engine", engine)
    words = ["generate", str(chat_target), "--prompts", str(questions), "--max-tokens", "150", "--dtype", "float32"]
    words += ["--chat-template", str(template), "--output", str(tmp_path / "set")]
    assert main(words) == 2
    assert f"--prompts: {questions}:8: expected Unicode text" in capsys.readouterr().err
    assert not engines
    assert main([*words, "--skip-bad"]) == 0
    said = capsys.readouterr()
    assert "Dropped: 3 bad" in said.out
    for number in (8, 9, 10):
        assert f"left out: {questions}:{number}" in said.err
    assert "chat_template_sha256" in json.loads((tmp_path / "set" / "run_info.json").read_text())["config"]["template"]


def test_prompts_with_tokens_that_have_no_row_are_left_out() -> None:
    """Catches answers that are generated for hours and that `train` refuses, all of them, for one token."""
    tokenizer = SimpleNamespace(get_vocab=lambda: {"a": 0, "<extra>": 9})
    asked: list[Any] = [SimpleNamespace(ids=ids, dialog=SimpleNamespace(where="f:3")) for ids in ((0, 8), (0, 9), ())]
    bad = BadRecords(skip=True)
    assert generate_file._with_rows(asked, 9, tokenizer, bad) == [asked[0], asked[2]]
    assert (bad.num, "f:3: token 9 ('<extra>') has no row in the target's embedding" in bad.first) == (1, True)
    with pytest.raises(InputError, match=r"^prompts: f:3: token 9 "):
        generate_file._with_rows(asked, 9, tokenizer, BadRecords(skip=False))


@pytest.mark.vllm
def test_every_turn_is_answered_by_the_target(chat_target: Path, tmp_path: Path) -> None:
    """Catches a second turn that is not asked, or asked behind another answer than the target's own."""
    from transformers import AutoTokenizer

    path = tmp_path / "turns.jsonl"
    path.write_text("".join(f'{{"turns": ["def first_{i}(self):", "second"]}}\n' for i in range(8)))
    config = GenerateConfig(temperature=(1.0,), max_tokens=24, max_num_seqs=8, dtype="float32")
    info = generate(config, target=str(chat_target), prompts=[path], output=tmp_path / "set", show_progress=False)
    rows, tokenizer = load_conversations(tmp_path / "set"), AutoTokenizer.from_pretrained(chat_target)
    assert info["num_answers"] == sum(len(row.answers) for row in rows) > 8
    firsts = {tokenizer.decode(row.answer, skip_special_tokens=True) for row in rows if len(row.answers) == 1}
    seconds = [row for row in rows if "second" in tokenizer.decode(row.ids[: row.answers[-1][0]])]
    assert len(seconds) >= 4
    for row in seconds:
        start, stop = row.answers[-1]
        said = tokenizer.decode(row.ids[:start], skip_special_tokens=True)
        before, _, asked = said.rpartition("# user\nsecond")
        assert asked == "\n# assistant\n"
        first = before.partition("# assistant\n")[2].removesuffix("\n")
        own = [tokenizer.decode(row.ids[slice(*answer)], skip_special_tokens=True) for answer in row.answers[:-1]]
        assert first in firsts | set(own), "an answer of the target's, in this row or in one of its own"
        assert 2 <= stop - start <= 24


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
    with generate_file._engine(GenerateConfig(max_num_seqs=128, engine_options=options), "t", "float32"):
        pass
    assert {"model": "t", "max_num_seqs": 128, "tensor_parallel_size": 2, "block_size": 32}.items() <= given.items()


def test_a_gpu_gets_batches_of_its_own_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not where a cluster shares them out, nor in a folder that was begun elsewhere, or before sizes went by device."""

    def sizes(*, has_gpu: bool = True, is_here: bool = True, **asked: int) -> tuple[int | None, int | None]:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
        config = generate_file._with_sizes(GenerateConfig(**asked), tmp_path, is_here=is_here)  # type: ignore[arg-type]
        return config.batch_size, config.max_num_seqs

    assert sizes(has_gpu=False) == sizes(is_here=False) == (384, 128)
    assert (sizes(), sizes(batch_size=8)) == ((4096, 512), (8, 512))
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps({"config": {"batch_size": 384, "max_num_seqs": 128}}), encoding="utf-8")
    assert (sizes(), sizes(batch_size=8)) == ((384, 128), (8, 128))
    settings.write_text("[", encoding="utf-8")
    assert sizes() == (4096, 512)


def test_an_engine_that_does_not_start_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(**_: Any) -> Any:
        raise AssertionError("no such thing\nand a long story")

    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(LLM=make))  # type: ignore[arg-type]
    for name in ("VLLM_ENABLE_V1_MULTIPROCESSING", "VLLM_CPU_KVCACHE_SPACE", "VLLM_LOGGING_LEVEL"):
        monkeypatch.setenv(name, "1")
    with (
        pytest.raises(ValueError, match=r"^vLLM does not start with t: AssertionError: no such thing$"),
        generate_file._engine(GenerateConfig(), "t", "float32"),
    ):
        pass


ERRORS = {
    "nothing asked": ([], "--prompts: expected files, or a number of self_prompts, got neither"),
    "starts alone": (
        ["--self-prompt-starts", "a.txt", "--prompts", "a.txt"],
        "--self-prompt-starts: expected a number of self_prompts",
    ),
    "no such starts": (
        ["--self-prompts", "3", "--self-prompt-starts", "absent.txt"],
        "--self-prompt-starts: expected text (.txt), JSON, JSONL or Parquet",
    ),
    "no such file": (["--prompts", "absent.txt"], "--prompts: expected text (.txt), JSON, JSONL or Parquet"),
    "no chat template": (["--self-prompts", "3"], "--self-prompts: expected a target with a chat template"),
    "no model": (["--self-prompts", "3", "--target", "absent"], "--target: expected a causal LM's folder or Hub id"),
    "temperature": (["--self-prompts", "3", "--temperature", "-1"], "--temperature: expected at least 0, got -1.0"),
    "length": (["--self-prompts", "3", "--max-model-len", "9"], "--max-model-len: expected more than max_tokens 256"),
    "no room": (["--prompts", "a.txt", "--max-tokens", "1024"], "--max-tokens: expected less than 1,024, the target"),
    "context": (
        ["--prompts", "a.txt", "--max-model-len", "2048"],
        "--max-model-len: expected at most 1,024, the target",
    ),
    "template": (
        ["--prompts", "a.txt", "--chat-template", "absent"],
        "--chat-template: expected a text file, got absent",
    ),
    "kwargs": (["--prompts", "a.txt", "--chat-template-kwargs", "{"], "--chat-template-kwargs: expected a JSON object"),
    "turns": (["--prompts", "turns.jsonl"], "--prompts: turns.jsonl:1: expected one message of the user for a target"),
    "output": (["--prompts", "a.txt", "--output", "a.txt"], "--output: expected a folder, got a.txt"),
    "too hot": (["--self-prompts", "3", "--temperature", "3"], "--temperature: expected at most 2, got 3.0"),
    "too long": (
        ["--prompts", "long.txt", "--max-model-len", "300"],
        "--prompts: 1 of 1 prompts have more than 44 tokens, which leaves no room for an answer of 256 in 300",
    ),
}


@pytest.mark.parametrize(("more", "message"), ERRORS.values(), ids=ERRORS.keys())
def test_bad_input_is_one_line_before_any_engine(
    more: list[str], message: str, target_dir: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(generate_file, "_engine", lambda *args: pytest.fail("started an engine"))
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "long.txt").write_text("x = 1\n" * 40)
    (tmp_path / "turns.jsonl").write_text('{"turns": ["a", "b"]}')
    assert main(["generate", "--target", str(target_dir), "--output", "out", *more]) == 2
    assert message in capsys.readouterr().err
