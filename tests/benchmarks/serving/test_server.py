"""Catches: an engine argument that the server is not told, or is told as something else."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vllm_mtp.benchmarks.serving import server
from vllm_mtp.benchmarks.serving.server import ServerError, flags, serving


def test_engine_arguments_as_words_of_vllm_serve() -> None:
    arguments = {
        "model": "folder",
        "max_model_len": 512,
        "enforce_eager": True,
        "enable_prefix_caching": False,
        "speculative_config": {"model": "draft", "num_speculative_tokens": 3},
    }
    words = ["folder", "--max-model-len", "512", "--enforce-eager", "--no-enable-prefix-caching"]
    words += ["--speculative-config", '{"model": "draft", "num_speculative_tokens": 3}']
    assert flags(arguments) == words


@pytest.mark.vllm
@pytest.mark.slow
def test_vllm_takes_these_words() -> None:
    from vllm.engine.arg_utils import EngineArgs
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    arguments = {"model": "m", "dtype": "float32", "seed": 3, "enforce_eager": False, "enable_prefix_caching": False}
    arguments |= {"max_model_len": 64, "max_num_seqs": 2, "speculative_config": {"method": "ngram"}}
    taken = EngineArgs.add_cli_args(FlexibleArgumentParser()).parse_args(["--model", *flags(arguments)])
    assert {name: getattr(taken, name) for name in arguments} == arguments


def test_a_server_that_ends_is_named_with_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "VLLM", (sys.executable, "-c", "raise SystemExit('no such model')"))
    with pytest.raises(ServerError, match="status 1; its log is"), serving({"model": "m"}, tmp_path / "log"):
        pass
    assert "no such model" in (tmp_path / "log").read_text()


def test_sigterm_ends_the_server_too(tmp_path: Path) -> None:
    """Catches a server that keeps its memory after a time limit has ended the benchmark."""
    sleeps = "import os, pathlib, sys, time; pathlib.Path(sys.argv[-1]).write_text(str(os.getpid())); time.sleep(60)"
    code = f"""
import sys
from pathlib import Path
from vllm_mtp.benchmarks.serving import server
server.VLLM = (sys.executable, "-c", {sleeps!r})
server.flags = lambda arguments: []
server.free_port = lambda: {str(tmp_path / "pid")!r}
with server.serving({{}}, Path({str(tmp_path / "log")!r})):
    pass
"""
    process = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 60
    while not ((tmp_path / "pid").exists() and (tmp_path / "pid").read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 128 + signal.SIGTERM
    assert not Path("/proc", (tmp_path / "pid").read_text()).exists()
