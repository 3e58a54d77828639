"""`vllm-mtp train` as a whole, on random targets: it learns, leaves the target alone, resumes, says what is wrong.

Catches: a target that trains along, a resumed run that takes another course, other flags or other text taken for the
same run, a finished drafter trained anew or overwritten, bad input found only after hours, paths of this machine in the
drafter's folder.
"""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.drafts import small_config, write_random_draft
from vllm_mtp.cli import main
from vllm_mtp.contract.checkpoint import load_draft
from vllm_mtp.training import loop
from vllm_mtp.training import run as run_file
from vllm_mtp.training.checkpoint import Checkpoint, load_checkpoint
from vllm_mtp.training.config import TrainConfig
from vllm_mtp.training.export import CURVE_FILE
from vllm_mtp.training.loop import train
from vllm_mtp.training.loss.shapes import Shape
from vllm_mtp.training.ranks import Ranks
from vllm_mtp.training.run import Run, TrainInputs, prepare
from vllm_mtp.training.start import initial

SENTENCE = "the quick brown fox jumps over the lazy dog while seven wizards brew a potion of jade and quartz; "
TINY: dict[str, Any] = {"sequence_length": 32, "batch_size": 4, "warmup_steps": 2, "dtype": "float32"}
STEP = TINY["sequence_length"] * TINY["batch_size"]  # tokens


def save_target(folder: Path, *, tied: bool) -> Path:
    """A random Llama with a tokenizer of bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(["<|end|>", *alphabet])}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>").save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=260,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.2,  # an output distribution that is far from flat
        tie_word_embeddings=tied,
        eos_token_id=0,
        bos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_target(tmp_path_factory.mktemp("targets") / "tiny-llama", tied=True)


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(SENTENCE * 60, encoding="utf-8")
    return path


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def run_train(config: TrainConfig, target: Path, data: Path, output: Path, **more: Any) -> dict[str, Any]:
    more = {"report_to": ("jsonl",)} | more  # TensorBoard's file has another name every time
    inputs = TrainInputs(target=str(target), data=[data], output=output, device="cpu", show_progress=False, **more)
    return train(config, inputs)


def curve(folder: Path) -> list[dict[str, float]]:
    """Rows of training_curve.csv, without their empty cells."""
    with (folder / CURVE_FILE).open(encoding="utf-8") as file:
        return [{name: float(cell) for name, cell in row.items() if cell} for row in csv.DictReader(file)]


def assert_alike(folder: Path, other: Path, *, rel: float = 1e-3) -> None:
    """The same curve but for rounding, which decides ties: one position of a few hundred may agree or not."""
    for row, expected in zip(curve(folder), curve(other), strict=True):
        assert row.keys() == expected.keys()
        for name, value in row.items():
            is_of_ties = "agreement" in name or "acceptance" in name
            assert value == pytest.approx(expected[name], rel=rel, abs=5e-3 if is_of_ties else 1e-3), name


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def finished(tiny_target: Path, text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of 12 steps, with checkpoints after 5, 10 and 12, that nothing interrupted."""
    output = tmp_path_factory.mktemp("finished") / "draft"
    run_train(TrainConfig(tokens=12 * STEP, checkpoint_every=5, **TINY), tiny_target, text, output)
    return output


@pytest.mark.parametrize(
    ("tied", "objective", "optimizer"),
    [(True, "kl", "muon"), (False, "kl", "adamw"), (False, "lm", "muon"), (True, "lk", "muon")],
)
def test_training_overfits(tied: bool, objective: str, optimizer: str, tmp_path: Path) -> None:
    target = save_target(tmp_path / "target", tied=tied)
    before = files(target)
    data = tmp_path / "text.txt"
    data.write_text("abcdefghijk" * 150, encoding="utf-8")  # every window of 33 tokens is the same
    config = TrainConfig(
        tokens=160 * STEP, num_steps_unrolled=2, objective=objective, optimizer=optimizer, checkpoint_every=160,
        learning_rate=0.02 if optimizer == "muon" else 0.005, module_init="random", **TINY,
    )  # fmt: skip
    info = run_train(config, target, data, tmp_path / "draft")
    first, *_, last = curve(tmp_path / "draft")
    assert last["loss"] < 0.1 * first["loss"]
    if objective != "lm":
        assert first["agreement_0"] < 0.3
        assert min(last["agreement_0"], last["agreement_1"]) > 0.9
        assert min(info["held_out"]["agreement_per_position"][:2]) > 0.9
    assert files(target) == before


def test_the_target_in_memory_stays_bit_for_bit(
    tiny_target: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    targets = []
    load = run_file.FrozenTarget.load

    def loaded(*args: Any, **kwargs: Any) -> Any:
        targets.append(load(*args, **kwargs))
        states.append({name: tensor.clone() for name, tensor in targets[0].model.state_dict().items()})
        return targets[0]

    states: list[dict[str, torch.Tensor]] = []
    monkeypatch.setattr(run_file.FrozenTarget, "load", loaded)
    run_train(TrainConfig(tokens=3 * STEP, **TINY), tiny_target, text, tmp_path / "draft")
    after = targets[0].model.state_dict()
    assert after.keys() == states[0].keys()
    assert all(torch.equal(tensor, states[0][name]) for name, tensor in after.items())
    assert all(parameter.grad is None for parameter in targets[0].model.parameters())


COMMAND = [sys.executable, "-m", "vllm_mtp.cli", "train"]


def arguments(target: Path, data: Path, output: Path, *more: str) -> list[str]:
    """The command line of the run that `finished` is."""
    flags = f"--sequence-length 32 --batch-size 4 --warmup-steps 2 --dtype float32 --tokens {12 * STEP}"
    paths = ["--target", str(target), "--data", str(data), "--output", str(output)]
    # TensorBoard's file has another name every time.
    watched = ["--report-to", "jsonl"]
    return [*paths, *flags.split(), "--checkpoint-every", "5", "--device", "cpu", *watched, *more]


@pytest.mark.slow
def test_killed_and_run_again_it_takes_the_same_course(
    tiny_target: Path, text: Path, finished: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_target, tmp_path / "tiny-llama")
    shutil.copy(text, tmp_path / "text.txt")
    # Absolute paths, of which none may be left in the folder.
    command = [*COMMAND, *arguments(tmp_path / "tiny-llama", tmp_path / "text.txt", tmp_path / "out" / "draft")]
    checkpoint = tmp_path / "out" / "draft" / "training" / "checkpoint-00000005.pt"
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    # Two steps after the first checkpoint it waits to be killed, on a machine of any speed.
    waiting = f"""
import pathlib, sys, time
from vllm_mtp import cli
from vllm_mtp.training import run as run_file
compare, calls = run_file.compare, []
def waits(*args):
    calls.extend([1] * pathlib.Path({str(checkpoint)!r}).exists())
    if len(calls) > 2:
        pathlib.Path({str(tmp_path / "waits")!r}).touch()
        time.sleep(600)
    return compare(*args)
run_file.compare = waits
sys.exit(cli.main(sys.argv[1:]))
"""
    process = subprocess.Popen(
        [sys.executable, "-c", waiting, *command[3:]], cwd=tmp_path, env=environment, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 300
    while not (tmp_path / "waits").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    assert process.wait() == -signal.SIGKILL, process.communicate()[1].decode()
    process.communicate()
    assert torch.load(checkpoint, weights_only=True)["step"] == 5
    assert not (tmp_path / "out" / "draft" / "run_info.json").exists()

    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "vllm serve" in result.stdout
    found = json.loads((checkpoint.parents[1] / "run_info.json").read_text())
    assert curve(checkpoint.parents[1]) == curve(finished)
    assert [row["step"] for row in curve(finished)] == [1, 5, 10, 12]
    assert [row["step"] for row in curve(finished) if "held_out_loss" in row] == [5, 10, 12]
    assert weights(checkpoint.parents[1]) == weights(finished)
    assert not checkpoint.parent.exists()
    assert not [name for name, content in files(checkpoint.parents[1]).items() if str(tmp_path).encode() in content]
    assert found["argv"][:8] == [
        "vllm-mtp", "train", "--target", "tiny-llama", "--data", "text.txt", "--output", "out/draft"
    ]  # fmt: skip
    # In a log file the bar is not drawn at every step.
    bars = [line for line in result.stderr.replace("\r", "\n").splitlines() if "/12 [" in line]
    assert 1 <= len(bars) <= 6  # first, last, and around two lines on held-out text; twice that at every step


class KilledError(Exception):
    pass


def run_and_kill(config: TrainConfig, *inputs: Path, at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """`run_train` as far as a step, from 1."""
    compare, calls = run_file.compare, []

    def killing(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == at:
            raise KilledError
        return compare(*args)

    with monkeypatch.context() as patch:
        patch.setattr(run_file, "compare", killing)
        with pytest.raises(KilledError):
            run_train(config, *inputs)


@pytest.fixture
def unfinished(tiny_target: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the run of `finished`, killed at step 7."""
    output, config = tmp_path / "draft", TrainConfig(tokens=12 * STEP, checkpoint_every=5, **TINY)
    run_and_kill(config, tiny_target, text, output, at=7, monkeypatch=monkeypatch)
    assert (output / "training" / "checkpoint-00000005.pt").exists()
    return output


def test_processes_compare_where_they_go_on_from(
    unfinished: Path, tiny_target: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches two machines with a folder each: one at step 5, and one at the start, add up gradients of other steps."""
    found: list[object] = []
    monkeypatch.setattr(Ranks, "check_same", lambda self, what: found.append(what))
    for output in (unfinished, unfinished, tmp_path / "other"):
        config = TrainConfig(tokens=12 * STEP, checkpoint_every=5, **TINY)
        prepare(config, TrainInputs(target=str(tiny_target), data=[text], output=output, show_progress=False))
    assert found[0] == found[1] != found[2]


def test_chains_of_drafted_tokens_go_on_from_a_checkpoint(
    tiny_target: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TrainConfig(
        tokens=5 * STEP, checkpoint_every=2, single_step_fraction=0.0, objective="e2e-tv", step_tokens="drafted", **TINY
    )
    run_train(config, tiny_target, text, tmp_path / "whole")
    run_and_kill(config, tiny_target, text, tmp_path / "killed", at=4, monkeypatch=monkeypatch)
    assert (tmp_path / "killed" / "training" / "checkpoint-00000002.pt").exists()
    run_train(config, tiny_target, text, tmp_path / "killed")
    assert curve(tmp_path / "killed") == curve(tmp_path / "whole")
    assert weights(tmp_path / "killed") == weights(tmp_path / "whole")


def test_a_checkpoint_of_an_earlier_version_is_gone_on_with(
    unfinished: Path, finished: Path, tiny_target: Path, text: Path
) -> None:
    """Catches typed records that refuse what was written before some of their fields were."""
    path = unfinished / "training" / "checkpoint-00000005.pt"
    state = torch.load(path, weights_only=True)
    path.unlink()
    assert state["log"][4].keys() == {"step", "loss", "agreement_per_position", "held_out"}
    assert state["log"][3].keys() == {"step", "loss", "agreement_per_position"}
    del state["target_weights_sha256"], state["draft_vocab_size"]
    torch.save(state, path.with_name("checkpoint.pt"))
    run_train(TrainConfig(tokens=12 * STEP, checkpoint_every=5, **TINY), tiny_target, text, unfinished)
    assert curve(unfinished) == curve(finished)
    assert weights(unfinished) == weights(finished)


def test_steps_of_a_run_that_is_resumed(unfinished: Path, tiny_target: Path, text: Path) -> None:
    """The four functions by themselves: a step leaves its entry in the log, and at a checkpoint the state on disk."""
    config = TrainConfig(tokens=12 * STEP, checkpoint_every=5, **TINY)
    inputs = TrainInputs(target=str(tiny_target), data=[text], output=unfinished, device="cpu", show_progress=False)
    run = prepare(config, inputs)
    assert isinstance(run, Run)
    assert (run.first_step, run.log) == (0, [])
    run.resume()
    assert (run.first_step, [entry.step for entry in run.log]) == (5, [1, 2, 3, 4, 5])
    entries = [loop.step(run, index) for index in range(5, 10)]
    assert run.log[5:] == entries
    assert [entry.held_out is not None for entry in entries] == [False] * 4 + [True]
    stored = load_checkpoint(unfinished)
    assert stored is not None
    assert (stored.step, stored.log, stored.identity) == (10, run.log, run.identity)


def test_the_same_command_goes_on_from_its_checkpoint(
    unfinished: Path, finished: Path, tiny_target: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *arguments(tiny_target, text, unfinished)]) == 0
    found, expected = (json.loads((folder / "run_info.json").read_text()) for folder in (unfinished, finished))
    assert found["held_out"] == expected["held_out"]
    assert curve(unfinished) == curve(finished)
    assert weights(unfinished) == weights(finished)
    assert found["argv"][:2] == ["vllm-mtp", "train"]
    assert found["argv"][-2:] == ["--report-to", "jsonl"]


@pytest.mark.parametrize("state", ["unfinished", "finished"])
@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--batch-size", "2", "--seed", "7"], "batch_size: 4, now 2; seed: 0, now 7"),
        (["--data", "OTHER"], "data: other text"),
        (["--target", "OTHER"], "target: 'tiny-llama', now 'other' (or other weights of that name)"),
    ],
)
def test_another_run_in_the_same_folder_is_an_error(
    state: str, more: list[str], message: str, tiny_target: Path, text: Path, tmp_path: Path,
    request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    output: Path = request.getfixturevalue(state)
    before = files(output)
    if more[0] == "--target":
        more = ["--target", str(save_target(tmp_path / "other", tied=False))]
    elif more[0] == "--data":
        (tmp_path / "other.txt").write_text(SENTENCE[1:] * 60)
        more = ["--data", str(tmp_path / "other.txt")]
    assert main(["train", *arguments(tiny_target, text, output), *more]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert f"--output: {output} holds {'an unfinished run' if state == 'unfinished' else 'a finished drafter'}" in error
    assert files(output) == before


def test_a_finished_run_is_left_as_it_is(
    finished: Path, tiny_target: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files(finished)
    assert main(["train", *arguments(tiny_target, text, finished)]) == 0
    assert "finished: nothing to do" in capsys.readouterr().out
    assert files(finished) == before


def test_killed_while_the_drafter_was_written(
    unfinished: Path, finished: Path, tiny_target: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TrainConfig(tokens=12 * STEP, checkpoint_every=5, **TINY)

    def killed(*args: Any) -> str:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr("vllm_mtp.training.export.model_card", killed)
        with pytest.raises(KilledError):
            run_train(config, tiny_target, text, unfinished)
    assert (unfinished / "model.safetensors").exists()
    assert not (unfinished / "run_info.json").exists()
    run_train(config, tiny_target, text, unfinished)
    assert curve(unfinished) == curve(finished)
    assert weights(unfinished) == weights(finished)
    assert files(unfinished).keys() == files(finished).keys()


def test_a_run_keeps_the_dtype_that_it_began_with(
    tiny_target: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The probe measures time, so that it may decide otherwise when the run goes on.
    config = TrainConfig(tokens=2 * STEP, **(TINY | {"dtype": "auto"}))
    choices = iter([torch.bfloat16, torch.float32])
    monkeypatch.setattr("vllm_mtp.training.frozen.target.faster_cpu_dtype", lambda model: next(choices))
    with monkeypatch.context() as patch:
        patch.setattr(loop, "export", lambda *args: None)
        patch.setattr(loop, "remove_checkpoint", lambda *args: None)
        run_train(config, tiny_target, text, tmp_path / "draft")
    assert run_train(config, tiny_target, text, tmp_path / "draft")["dtype"] == "bfloat16"


def test_the_drafters_folder(finished: Path, tiny_target: Path) -> None:
    names = {"config.json", "model.safetensors", "run_info.json", "training_curve.csv", "README.md"}
    drawn = {"training.png"} if find_spec("matplotlib") else set()
    assert files(finished).keys() == names | drawn | {"log/steps.jsonl"}
    info = json.loads((finished / "run_info.json").read_text())
    assert 11 * STEP < info["tokens_seen"] <= 12 * STEP
    assert info["versions"].keys() >= {"python", "torch", "transformers"}
    assert info["target"]["name"] == "tiny-llama"
    assert info["held_out"]["loss"] == curve(finished)[-1]["held_out_loss"]
    card = (finished / "README.md").read_text()
    assert "vllm serve TARGET --spec-method mtp --spec-model THIS_FOLDER --spec-tokens 3" in card
    for position in range(5):
        agreement, overlap = (info["held_out"][f"{name}_per_position"][position] for name in ("agreement", "overlap"))
        assert f"| {position} | {agreement:.3f} | {overlap:.3f} |" in card
    target = json.loads((tiny_target / "config.json").read_text())
    config = json.loads((finished / "config.json").read_text())
    same = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim", "vocab_size")
    assert {name: config[name] for name in same} == {name: target[name] for name in same}
    assert config["trained_length"] == info["config"]["sequence_length"], "of rows of text"


def test_the_trained_weights_are_read_again(
    tiny_target: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules = []
    initialize = initial.initialize
    monkeypatch.setattr(initial, "initialize", lambda module, ids: (initialize(module, ids), modules.append(module)))
    run_train(TrainConfig(tokens=3 * STEP, qk_norm=True, **TINY), tiny_target, text, tmp_path / "draft")
    read, trained = load_draft(tmp_path / "draft")[1], modules[0].state_dict()
    assert read.keys() == trained.keys()
    assert all(torch.equal(read[name], tensor.bfloat16()) for name, tensor in trained.items())


@pytest.mark.parametrize("how", [{}, {"objective": "e2e-tv", "step_tokens": "drafted"}], ids=["kl", "e2e-tv"])
def test_a_draft_vocabulary_a_store_and_a_second_stage(
    how: dict[str, Any], tiny_target: Path, text: Path, tmp_path: Path
) -> None:
    vocab, store = tmp_path / "vocab.json", tmp_path / "store"
    assert (
        main(["vocab", "--target", str(tiny_target), "--data", str(text), "--size", "20", "--output", str(vocab)]) == 0
    )
    config = TrainConfig(tokens=24 * STEP, num_steps_unrolled=2, **how, **TINY)
    made_with: dict[str, Any] = {"draft_vocab": vocab, "store": store}
    first = run_train(config, tiny_target, text, tmp_path / "first", **made_with)
    draft_config, tensors = load_draft(tmp_path / "first")
    assert draft_config.draft_vocab_size == 20
    assert (tensors["d2t"] + torch.arange(20)).tolist() == json.loads(vocab.read_text())["draft_ids"]
    assert first["tokens_per_second"]["target"] > 0
    # Without the store the same course.
    other = run_train(config, tiny_target, text, tmp_path / "other", draft_vocab=vocab)
    assert other["held_out"] == first["held_out"]
    assert weights(tmp_path / "other") == weights(tmp_path / "first")

    again = run_train(
        config, tiny_target, text, tmp_path / "again", draft_vocab=vocab, store=store, initial=tmp_path / "first"
    )
    assert again["tokens_per_second"]["target"] is None
    assert curve(tmp_path / "again")[0]["loss"] < 0.8 * curve(tmp_path / "first")[0]["loss"]
    with pytest.raises(ValueError, match="initial: other weights"):
        run_train(config, tiny_target, text, tmp_path / "again", **made_with)
    with pytest.raises(ValueError, match=r"drafts 20 tokens: give the draft_vocab that made it"):
        run_train(config, tiny_target, text, tmp_path / "whole", initial=tmp_path / "first")


def test_the_last_checkpoint_measures_all_that_is_held_out(
    tiny_target: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those before it measure less of it where the vocabulary makes that slow, and say so."""
    monkeypatch.setattr("vllm_mtp.training.loss.loss._MAX_LOGITS_AT_CHECKPOINTS", 40 * 7 * 260)
    config = TrainConfig(tokens=4 * STEP, checkpoint_every=2, **TINY)
    inputs = TrainInputs(target=str(tiny_target), data=[text], output=tmp_path / "draft", device="cpu")
    info = train(config, inputs)
    some, everything = (row for row in curve(tmp_path / "draft") if "held_out_positions" in row)
    assert info["held_out"]["positions"] == everything["held_out_positions"]
    assert some["held_out_positions"] == 32 < everything["held_out_positions"]
    said = capsys.readouterr().out
    assert "over 32 positions" in said
    assert "5,577 tokens, seen 0.1 times in 4 steps" in said


BEST = TrainConfig(tokens=24 * STEP, checkpoint_every=3, learning_rate=0.5, decay_fraction=0.0, keep="best", **TINY)


@pytest.mark.parametrize("killed_after", [None, 14, 24])
def test_the_checkpoint_of_the_best_acceptance_becomes_the_drafter(
    killed_after: int | None, tiny_target: Path, text: Path, tmp_path: Path
) -> None:
    """At a learning rate that is too high, which the last step is not the best of. Catches a run that goes on with
    another best than it had."""
    paths: dict[str, Any] = {"data": [text], "output": tmp_path / "draft", "report_to": ("jsonl",)}
    inputs = TrainInputs(target=str(tiny_target), device="cpu", show_progress=False, **paths)
    found = prepare(BEST, inputs)
    assert isinstance(found, Run)
    modules = {}
    for index in range(24):
        if index == killed_after:
            break
        loop.step(found, index)
        modules[index + 1] = {name: tensor.clone() for name, tensor in found.module.state_dict().items()}
    info = loop.finish(found) if killed_after is None else train(BEST, inputs)
    lengths = {int(row["step"]): row["held_out_acceptance_length"] for row in curve(tmp_path / "draft")[1:]
               if "held_out_loss" in row}  # fmt: skip
    best = max(lengths, key=lambda step: (lengths[step], step))
    assert best < 14 < max(lengths) == 24
    assert info["kept_step"] == best
    assert info["held_out"]["acceptance_length"] == lengths[best]
    assert info["held_out_of_last_step"]["acceptance_length"] == lengths[24]
    tensors = load_draft(tmp_path / "draft")[1]
    assert all(torch.equal(tensors[name], tensor.bfloat16()) for name, tensor in modules[best].items())
    assert f"checkpoint of step {best}, the best" in (tmp_path / "draft" / "README.md").read_text()
    assert not (tmp_path / "draft" / "training").exists()


def test_a_run_that_only_makes_a_drafter_worse_keeps_the_one_that_was_given(
    tiny_target: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What it was worth is said before the first step."""
    good = TrainConfig(tokens=24 * STEP, **TINY)
    given = run_train(good, tiny_target, text, tmp_path / "given")["held_out"]
    ruinous = TrainConfig(tokens=6 * STEP, checkpoint_every=3, learning_rate=5.0, keep="best", **TINY)
    capsys.readouterr()
    paths: dict[str, Any] = {"data": [text], "output": tmp_path / "draft", "initial": tmp_path / "given"}
    info = train(ruinous, TrainInputs(target=str(tiny_target), device="cpu", **paths))
    said = capsys.readouterr().out
    assert said.index("step 0: held-out loss") < said.index("step 3: held-out loss")
    assert info["kept_step"] == 0
    assert info["held_out"]["acceptance_length"] == pytest.approx(given["acceptance_length"], abs=0.02)
    assert weights(tmp_path / "draft") == weights(tmp_path / "given")
    assert "this is the drafter that it went on from" in (tmp_path / "draft" / "README.md").read_text()


def test_the_best_is_chosen_on_the_rows_that_every_checkpoint_measures(
    tiny_target: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a last checkpoint that wins or loses by the rows that it alone measures."""
    monkeypatch.setattr("vllm_mtp.training.loss.loss._MAX_LOGITS_AT_CHECKPOINTS", 40 * 7 * 260)
    measured, held_out = [], loop.held_out

    def noted(module: Any, loss: Any, batches: Any, *more: Any) -> Any:
        measured.append(sum(batch.num_tokens for batch in batches))
        return held_out(module, loss, batches, *more)

    monkeypatch.setattr(loop, "held_out", noted)
    info = run_train(BEST, tiny_target, text, tmp_path / "draft")
    few, all_of_them = 32, info["held_out"]["positions"]
    assert few < all_of_them == info["held_out_of_last_step"]["positions"]
    assert measured[:9] == [few] * 7 + [all_of_them, few]


def test_bfloat16_and_an_untied_head_on_a_cpu(text: Path, tmp_path: Path) -> None:
    target = save_target(tmp_path / "target", tied=False)
    losses = {}
    for dtype in ("bfloat16", "float32"):
        config = TrainConfig(tokens=4 * STEP, qk_norm=True, num_steps_unrolled=7, **(TINY | {"dtype": dtype}))
        info = run_train(config, target, text, tmp_path / dtype)
        assert info["dtype"] == dtype
        assert len(info["held_out"]["agreement_per_position"]) == 7  # no fewer than were trained
        losses[dtype] = [row["loss"] for row in curve(tmp_path / dtype)] + [info["held_out"]["loss"]]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.05)
    config, tensors = load_draft(tmp_path / "bfloat16")
    assert config.qk_norm
    assert "layer.self_attn.q_norm.weight" in tensors


def test_another_shape_than_the_targets(tiny_target: Path, text: Path, tmp_path: Path) -> None:
    shape = {"intermediate_size": 48, "num_attention_heads": 6, "num_key_value_heads": 3}
    run_train(TrainConfig(tokens=2 * STEP, **shape, **TINY), tiny_target, text, tmp_path / "draft")
    config, tensors = load_draft(tmp_path / "draft")
    assert {name: getattr(config, name) for name in shape} == shape
    assert tensors["layer.self_attn.k_proj.weight"].shape == (3 * 8, 32)


ERRORS: dict[str, tuple[list[str], str]] = {
    "no such data": (
        ["--data", "absent.txt"],
        "--data: expected text (.txt), JSON, JSONL or Parquet files, folders of them, or hf://OWNER/NAME of the Hub, "
        "got absent.txt, which is no file",
    ),
    "bad JSONL": (["--data", "bad.jsonl"], "--data: bad.jsonl:2 is not valid JSON"),
    "not text": (["--data", "latin.txt"], "--data: latin.txt is not UTF-8 text"),
    "too little text": (["--data", "short.txt"], "--data: expected at least two rows (one to train on"),
    "not a model": (["--target", "empty"], "--target: expected a causal LM's folder or Hub id, got empty"),
    "no such model": (
        ["--target", "absent/folder"],
        "--target: expected a causal LM's folder or Hub id, got absent/folder",
    ),
    "output is a file": (["--output", "short.txt"], "--output: expected a folder, got short.txt, which is a file"),
    "output holds a model": (["--output", "TARGET"], "holds a model that `vllm-mtp train` did not write"),
    "too few tokens": (["--tokens", "100"], "--tokens: expected at least one batch of 4 x 32 tokens, got 100"),
    "short sequences": (["--sequence-length", "8"], "--sequence-length: expected at least 12"),
    "long sequences": (["--sequence-length", "300"], "--sequence-length: expected at most the target's 256, got 300"),
    "no draft vocabulary": (["--draft-vocab", "bad.jsonl"], "--draft-vocab: expected a file of `vllm-mtp vocab`"),
    "no drafter to go on from": (["--initial", "empty"], "--initial: expected a drafter's folder"),
    "a drafter of another target": (
        ["--initial", "other"],
        "--initial: other: This drafter was made for another target (not named): hidden_size 16, the target has 32",
    ),
    "no draft steps": (["--num-steps-unrolled", "0"], "--num-steps-unrolled: expected at least 1, got 0"),
    "learning rate": (["--learning-rate", "-1"], "--learning-rate: expected a number above 0, got -1.0"),
    "heads": (
        ["--num-attention-heads", "3"],
        "num_attention_heads must be a multiple of num_key_value_heads, got 3 and 2",
    ),
}


@pytest.mark.parametrize(("more", "message"), ERRORS.values(), ids=ERRORS.keys())
def test_bad_input_is_one_line_before_any_training(
    more: list[str], message: str, tiny_target: Path, text: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_file, "compare", lambda *args: pytest.fail("trained"))
    (tmp_path / "empty").mkdir()
    write_random_draft(tmp_path / "other", small_config())
    (tmp_path / "short.txt").write_text(SENTENCE[:40])
    (tmp_path / "bad.jsonl").write_text('{"text": "a"}\n{"text"\n')
    (tmp_path / "latin.txt").write_bytes("ä".encode("latin-1"))
    target = shutil.copytree(tiny_target, tmp_path / "target")
    more = [str(target) if word == "TARGET" else word for word in more]
    assert main(["train", *arguments(target, text, tmp_path / "draft"), *more]) == 2
    last_line = capsys.readouterr().err.splitlines()[-1]
    assert last_line.startswith("vllm-mtp train: ")
    assert message in last_line
    assert files(target) == files(tiny_target)


@pytest.mark.parametrize("flag", ["--draft-vocab", "--initial"])
def test_what_a_run_starts_from_is_checked_before_the_weights(
    flag: str, tiny_target: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a typing error that is found after minutes of loading a large target."""
    monkeypatch.setattr(run_file.FrozenTarget, "load", lambda *args, **kwargs: pytest.fail("loaded"))
    assert main(["train", *arguments(tiny_target, text, tmp_path / "draft"), flag, str(tmp_path / "absent")]) == 2


def test_conversations_that_exist(tiny_target: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches chat data trained on as JSON text, and flags that do not reach their reading."""
    target, data, output = tmp_path / "target", tmp_path / "chats.json", tmp_path / "draft"
    shutil.copytree(tiny_target, target)
    template = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{{ mood }}<|end|>{% endfor %}"
    (target / "chat_template.jinja").write_text(template + "{% if add_generation_prompt %}<assistant>{% endif %}")
    turns = [("human", "why?"), ("gpt", "so."), ("human", "really?"), ("gpt", "yes, really.")]
    conversation = [{"from": speaker, "value": text} for speaker, text in turns]
    data.write_text(json.dumps([{"id": i, "conversations": conversation if i != 4 else []} for i in range(30)]))
    assert main(["train", *arguments(target, data, output)]) == 2
    assert "--data: " in (error := capsys.readouterr().err)
    assert f"{data}, record 5: expected a list of messages" in error
    more = ["--skip-bad", "--chat-template-kwargs", '{"mood": "!"}', "--sequence-length", "128"]
    assert main(["train", *arguments(target, data, output), *more]) == 0
    out = capsys.readouterr().out
    length = len("<user>why?!.<assistant>so.!.<user>really?!.<assistant>yes, really.!.")
    assert f"{data}: {29 * length:,} tokens, bad records left out: 1, the first: {data}, record 5" in out
    info = json.loads((output / "run_info.json").read_text())
    assert (info["bad_records"], info["chat_template_kwargs"]) == (1, {"mood": "!"})
    # Two answers with what ends each of them, in every row.
    assert info["tokens_seen"] % (len("so.!.") + len("yes, really.!.")) == 0
    vocab = ["vocab", str(target), "--data", str(data), "--size", "9", "--output", str(tmp_path / "vocab.json")]
    assert main([*vocab, "--skip-bad"]) == 0
    assert json.loads((tmp_path / "vocab.json").read_text())["num_tokens"] == 27 * (len("so..") + len("yes, really.."))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu(tiny_target: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *arguments(tiny_target, text, tmp_path / "draft"), "--device", "cuda"]) == 2
    assert "--device: expected a CUDA GPU, torch finds none" in capsys.readouterr().err


def test_an_error_of_a_real_process_is_one_line(tiny_target: Path, tmp_path: Path) -> None:
    command = [*COMMAND, *arguments(tiny_target, tmp_path / "absent.txt", tmp_path / "draft")]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2
    [line] = result.stderr.splitlines()
    assert line.startswith("vllm-mtp train: --data: expected text (.txt), JSON, JSONL or Parquet files")
    assert result.stdout == ""


def test_a_loss_that_is_not_a_number_ends_the_run(
    tiny_target: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare = run_file.compare

    def spoiled(*args: Any) -> Any:
        result = compare(*args)
        return result._replace(loss_K=result.loss_K * float("nan"))

    monkeypatch.setattr(run_file, "compare", spoiled)
    with pytest.raises(ValueError, match=r"the loss of step 1 is nan. .* lower the learning rate .now 0.02."):
        run_train(TrainConfig(tokens=2 * STEP, **TINY), tiny_target, text, tmp_path / "draft")


def test_a_gradient_that_is_not_a_number_reaches_no_checkpoint(
    unfinished: Path, finished: Path, tiny_target: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a module of NaN in the checkpoint, which every further command would go on from."""
    config = TrainConfig(tokens=12 * STEP, checkpoint_every=5, **TINY)
    clip = torch.nn.utils.clip_grad_norm_

    def spoiled(parameters: Any, most: float) -> torch.Tensor:
        parameters = list(parameters)
        parameters[0].grad[0] = float("nan")
        return clip(parameters, most)

    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.utils, "clip_grad_norm_", spoiled)
        with pytest.raises(ValueError, match=r"the gradient of step 6 is nan. .* goes on from the last checkpoint"):
            run_train(config, tiny_target, text, unfinished)
    run_train(config, tiny_target, text, unfinished)
    assert weights(unfinished) == weights(finished)


@pytest.mark.parametrize(("seconds", "saved"), [(0.5, range(1, 13)), (3, [1, 4, 7, 10, 12])])
def test_a_slow_disk_gets_fewer_checkpoints(
    tiny_target: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, saved: Sequence[int]
) -> None:
    """Catches 2 GB every 100 steps of an 8B on a network disk: of steps of 21 s and checkpoints of 3 every third."""
    clock, found, save, update = 0.0, [], loop.save_checkpoint, loop.update

    def saving(folder: Path, checkpoint: Checkpoint) -> None:
        nonlocal clock
        clock += seconds
        found.append(checkpoint.step)
        save(folder, checkpoint)

    def updating(*args: Any) -> None:
        nonlocal clock
        clock += 21
        update(*args)

    monkeypatch.setattr(loop, "save_checkpoint", saving)
    monkeypatch.setattr(loop, "update", updating)
    monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=lambda: clock))
    run_train(TrainConfig(tokens=12 * STEP, checkpoint_every=1, **TINY), tiny_target, text, tmp_path / "draft")
    assert found == [*saved]


def test_ctrl_c_loses_nothing(
    finished: Path, tiny_target: Path, text: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """A checkpoint after the step at hand, a line, status 130; the same command goes on from there."""
    output, compare, calls = tmp_path / "draft", run_file.compare, []

    def pressed(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 7:
            signal.raise_signal(signal.SIGINT)
        return compare(*args)

    with monkeypatch.context() as patch:
        patch.setattr(run_file, "compare", pressed)
        assert main(["train", *arguments(tiny_target, text, output)]) == 130
    said = capsys.readouterr()
    assert "checkpoint after step 7" in said.out
    assert said.err.splitlines()[-1] == "vllm-mtp train: interrupted; the same command goes on"
    assert len(calls) == 7
    assert main(["train", *arguments(tiny_target, text, output)]) == 0
    assert "goes on after step 7" in capsys.readouterr().out
    assert curve(output) == curve(finished)
    assert weights(output) == weights(finished)


def test_a_handler_that_comes_back_finishes_no_run(
    tiny_target: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches an unfinished drafter that is exported as a finished one, its checkpoint deleted."""
    output, compare = tmp_path / "draft", run_file.compare

    def pressed(*args: Any) -> Any:
        signal.raise_signal(signal.SIGTERM)
        return compare(*args)

    monkeypatch.setattr(run_file, "compare", pressed)
    before = signal.signal(signal.SIGTERM, lambda number, frame: None)
    try:
        with pytest.raises(SystemExit):
            run_train(TrainConfig(tokens=12 * STEP, **TINY), tiny_target, text, output)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert sorted(path.name for path in output.iterdir()) == ["log", "training"]
    assert [path.name for path in (output / "training").iterdir()] == ["checkpoint-00000001.pt"]


def test_fixed_shapes_are_of_the_same_run(
    finished: Path, tiny_target: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Padded rows train the same drafter; without a compiler that is all, and another choice goes on with the run."""
    monkeypatch.setattr(run_file, "compiler_fault", lambda device: "no compiler")
    config = TrainConfig(tokens=12 * STEP, checkpoint_every=5, **TINY)
    run_train(config, tiny_target, text, tmp_path / "draft", compile="on", accumulate=3)
    assert_alike(tmp_path / "draft", finished)
    assert run_train(config, tiny_target, text, finished, compile="on")["tokens_seen"] == 12 * STEP
    with pytest.raises(ValueError, match=r"^compile: expected one of auto, on, off, got 'yes'"):
        run_train(config, tiny_target, text, tmp_path / "other", compile="yes")


def test_batches_keep_their_shapes_where_a_step_would_need_more_memory() -> None:
    long, short = (TrainConfig(tokens=steps * STEP, **TINY) for steps in (2000, 1999))
    of_batches = [Shape(8, 16, 100), Shape(1, 128, 100)]
    assert "8.0 times the positions" in run_file._why_as_they_are(long, of_batches, [Shape(8, 128, 100)])
    assert run_file._why_as_they_are(long, of_batches, [Shape(8, 20, 100), Shape(1, 128, 100)]) == ""
    assert run_file._why_as_they_are(short, of_batches, of_batches) == "fewer than 1,000 steps for each of 2 shapes"


def test_too_little_memory_is_one_line(
    tiny_target: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On the host torch has no type of its own for it: in a step, and where the target runs."""
    wanting: list[tuple[Any, str, str]] = [
        (run_file, "compare", "out of memory at step 1, "),
        (loop, "export", "out of memory; the same command goes on"),
    ]
    for file, name, said in wanting:
        with monkeypatch.context() as patch:
            patch.setattr(file, name, lambda *_: torch.empty(2**50))
            assert main(["train", *arguments(tiny_target, text, tmp_path / name, "--tokens", str(STEP))]) == 2
        assert said in capsys.readouterr().err.splitlines()[-1]


def too_much(*_: Any) -> Any:
    raise torch.OutOfMemoryError("CUDA out of memory")


def test_a_gpu_that_is_too_small_is_one_line(
    tiny_target: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_file, "compare", too_much)
    with pytest.raises(ValueError, match=r"out of GPU memory at step 1, .* give a smaller batch_size or"):
        run_train(TrainConfig(tokens=2 * STEP, **TINY), tiny_target, text, tmp_path / "draft")


def test_memory_for_all_draft_steps_is_tried_first(
    tiny_target: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU: what is too much for the last step would end the run there. What was tried leaves no gradient."""
    tried: list[tuple[int, int]] = []
    compare = run_file.compare

    def compare_at(module: Any, loss: Any, batch: Any, states: Any, num_steps: int, recompute: bool) -> Any:
        tried.append((batch.ids_BL.numel(), num_steps))
        return compare(module, loss, batch, states, num_steps, recompute)

    monkeypatch.setattr(run_file, "compare", compare_at)
    config = TrainConfig(tokens=12 * STEP, single_step_fraction=0.9, **TINY)
    inputs = TrainInputs(
        target=str(tiny_target), data=[text], output=tmp_path, device="cpu", compile="off", show_progress=False
    )
    run = prepare(config, inputs)
    assert isinstance(run, Run)
    loop.check_memory(run)
    assert tried == [(max(run.batches[index].ids_BL.numel() for index in range(len(run.batches))), 3)]
    monkeypatch.setattr(run, "compare", too_much)
    with pytest.raises(ValueError, match=r"^out of GPU memory before the first step, in a trial of the last, 3 draft"):
        loop.check_memory(run)
    assert all(parameter.grad is None for parameter in run.module.parameters())


def test_a_tuned_target_of_the_same_embedding_is_another_run(
    finished: Path, tiny_target: Path, text: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(tiny_target, tmp_path / "tiny-llama")
    path = tmp_path / "tiny-llama" / "model.safetensors"
    tensors = load_file(path)
    tensors["model.layers.0.self_attn.q_proj.weight"] *= 1.1
    save_file(tensors, path, metadata={"format": "pt"})
    config = TrainConfig(tokens=12 * STEP, checkpoint_every=5, **TINY)
    with pytest.raises(ValueError, match="target: other weights of 'tiny-llama'"):
        run_train(config, tmp_path / "tiny-llama", text, finished)
