"""scripts/on_gpu.sh asks for what the commands have.

Catches a flag that was renamed while nobody had a GPU, and a step that fails and takes the following ones with it.
"""

import os
import shlex
import subprocess
from pathlib import Path

from tests.documented import ROOT
from vllm_mtp.cli import make_parser
from vllm_mtp.cli.target import take_last_word

RECORD = (
    '#!/bin/sh\nfor word in "$(basename "$0")" "$@"; do printf "%s\\0" "$word"; done >> "$RECORD"; echo >> "$RECORD"\n'
)


def run(folder: Path, *steps: str, failing: str = "") -> tuple[str, list[list[str]]]:
    """What the script prints, and the commands that it called, none of which does anything here."""
    commands = folder / "bin"
    commands.mkdir()
    for name in ("vllm-mtp", "vllm", "python"):
        text = f'{RECORD}case "$*" in *{failing}*) exit 3;; esac\n' if failing else RECORD
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    record = folder / "record"
    environment = {**os.environ, "PATH": f"{commands}:{os.environ['PATH']}", "RECORD": str(record)}
    environment |= {"OUTPUT": str(folder / "out"), "MODEL": str(folder / "target")}
    script = [str(ROOT / "scripts" / "on_gpu.sh"), *steps]
    done = subprocess.run(["bash", *script], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout, [line.split("\0")[:-1] for line in record.read_text().splitlines()]


def test_every_command_line_is_taken_by_the_parser(tmp_path: Path) -> None:
    for name in ("speed", "tune"):  # as if the servers had not come to their end
        (tmp_path / "out" / name).mkdir(parents=True)
        (tmp_path / "out" / name / "results.json").touch()
    printed, called = run(tmp_path)
    ours = [words for name, *words in called if name == "vllm-mtp"]
    for words in ours:
        args, rest = make_parser().parse_known_args(words)
        assert take_last_word(args, rest) == [], shlex.join(words)
    assert {"tune", "report"} <= {words[0] for words in ours}
    assert [Path(word).parent.name for word in ours[-1] if word.endswith("results.json")] == ["speed", "tune"]
    assert {words[1] for words in ours if words[0] == "bench"} >= {"acceptance", "serving", "training", "kernels"}
    assert printed.count(": status 0 ") == len(printed.splitlines()) == 10


def test_a_step_that_fails_is_told_and_the_next_one_runs(tmp_path: Path) -> None:
    printed, called = run(tmp_path, "serving", "tune", failing="serving")
    assert [line.split(" after")[0] for line in printed.splitlines()] == ["serving: status 3", "tune: status 0"]
    assert len(called) == 2
