"""scripts/on_gpu.sh asks for what the commands have.

Catches a flag that was renamed while nobody had a GPU, and a step that fails and takes the following ones with it.
"""

import os
import shlex
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.documented import ROOT
from vllm_mtp.cli import make_parser
from vllm_mtp.cli.target import take_last_word

RECORD = (
    '#!/bin/sh\nfor word in "$(basename "$0")" "$@"; do printf "%s\\0" "$word"; done >> "$RECORD"; echo >> "$RECORD"\n'
)


def run(folder: Path, *steps: str, failing: str = "", **variables: str) -> tuple[str, list[list[str]]]:
    """What the script prints, and the commands that it called, none of which does anything here."""
    commands = folder / "bin"
    commands.mkdir()
    for name in ("vllm-mtp", "vllm", "python"):
        text = f'{RECORD}case "$*" in *{failing}*) exit 3;; esac\n' if failing else RECORD
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    record = folder / "record"
    environment = {**os.environ, "PATH": f"{commands}:{os.environ['PATH']}", "RECORD": str(record)}
    environment |= {"OUTPUT": str(folder / "out"), "MODEL": str(folder / "target")} | variables
    script = [str(ROOT / "scripts" / "on_gpu.sh"), *steps]
    done = subprocess.run(["bash", *script], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout, [line.split("\0")[:-1] for line in record.read_text().splitlines()]


@pytest.mark.parametrize("full", ["", "1"])
def test_every_command_line_is_taken_by_the_parser(full: str, tmp_path: Path) -> None:
    for name in ("speed", "tune"):  # as if the servers had not come to their end
        (tmp_path / "out" / name).mkdir(parents=True)
        (tmp_path / "out" / name / "results.json").touch()
    printed, called = run(tmp_path, FULL=full)
    ours = [words for name, *words in called if name == "vllm-mtp"]
    for words in ours:
        args, rest = make_parser().parse_known_args(words)
        assert take_last_word(args, rest) == [], shlex.join(words)
    assert {"tune", "report"} <= {words[0] for words in ours}
    assert [Path(word).parent.name for word in ours[-1] if word.endswith("results.json")] == ["speed", "tune"]
    assert {words[1] for words in ours if words[0] == "bench"} >= {"acceptance", "serving", "training", "kernels"}
    assert {words[0] for words in ours} >= {"train"}
    assert printed.count(": status 0 ") == len(printed.splitlines()) == 12
    [tuned] = [words for words in ours if words[0] == "tune"]
    assert ("--turns" in tuned) != bool(full)


@pytest.mark.parametrize(("folder", "runner"), [("target_dependent_ar", "default"), ("autoregressive", "0")])
def test_a_schedule_runs_on_the_runner_that_is_served_where_it_can(folder: str, runner: str, tmp_path: Path) -> None:
    """Folders of vLLM 0.32 and of 0.26, whose V2 runner ends with K by batch size."""
    (tmp_path / "vllm" / "v1" / "worker" / "gpu" / "spec_decode" / folder).mkdir(parents=True)
    (tmp_path / "bin").mkdir()
    commands = {"python": f"echo {tmp_path}/vllm", "vllm-mtp": "echo runner ${VLLM_USE_V2_MODEL_RUNNER:-default}"}
    for name, text in commands.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "OUTPUT": str(tmp_path / "out")}
    environment.pop("VLLM_USE_V2_MODEL_RUNNER", None)
    subprocess.run(["bash", str(ROOT / "scripts" / "on_gpu.sh"), "tune"], env=environment, check=True, timeout=60)
    assert (tmp_path / "out" / "tune.log").read_text() == f"runner {runner}\n"


def test_a_step_that_fails_is_told_and_the_next_one_runs(tmp_path: Path) -> None:
    printed, called = run(tmp_path, "serving", "tune", failing="serving")
    assert [line.split(" after")[0] for line in printed.splitlines()] == ["serving: status 3", "tune: status 0"]
    assert [words[1] for words in called if words[0] == "vllm-mtp"] == ["bench", "tune"]


def test_what_fails_in_a_step_hides_nothing_of_it(tmp_path: Path) -> None:
    """Lookup on a GPU is the least tried of all: the module alone is measured whatever it does."""
    printed, called = run(tmp_path, "first", failing="lookup")
    assert printed.startswith("first: status 1")
    assert len(called) == 4


def test_what_is_there_is_packed_after_every_step(tmp_path: Path) -> None:
    run(tmp_path, "serving", "tune", KEEP=str(tmp_path / "kept.tgz"))
    with tarfile.open(tmp_path / "kept.tgz") as kept:
        names = {Path(name).name for name in kept.getnames()}
    assert {"serving.log", "tune.log"} <= names


def test_commands_that_are_not_installed_are_run_as_modules(tmp_path: Path) -> None:
    commands = tmp_path / "only"
    commands.mkdir()
    for name in ("bash", "dirname", "mkdir", "chmod", "timeout", "tail", "cut", "sed"):
        found = shutil.which(name)
        assert found
        (commands / name).symlink_to(found)
    (commands / "python3").write_text('#!/bin/sh\necho "$@"\n')
    (commands / "python3").chmod(0o755)
    environment = {"PATH": str(commands), "OUTPUT": str(tmp_path / "out"), "MODEL": "m"}
    script = ["bash", str(ROOT / "scripts" / "on_gpu.sh"), "serving"]
    done = subprocess.run(script, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("serving: status 0")
    assert (tmp_path / "out" / "serving.log").read_text().startswith("-m vllm_mtp.cli bench serving m --draft")
