"""The checkout that demos and studies run in, and the commands that they run there."""

import importlib.util
import subprocess
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The repository: in a wheel, where nothing asks for it, another folder."""


def check_vllm() -> None:
    """Refuses an environment without vLLM."""
    if importlib.util.find_spec("vllm") is None:
        raise ValueError(
            "expected vLLM in this environment, found none; `make setup` says why it could not be installed"
        )


def run_command(command: Sequence[str]) -> None:
    """Runs a command with its output shown.

    Raises:
        ValueError: if it fails.
    """
    if subprocess.run(command).returncode:
        raise ValueError(f"failed: {' '.join(command)}")
