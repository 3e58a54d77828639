"""Static launch configurations: which tile and how many warps, by kernel, architecture and number of tokens.

Nothing is tuned while a model runs: a first request that waits for an autotuner, or one tuned on other shapes, costs
more than a tile that is a few percent off. The number of tokens enters as a bucket alone, so that a kernel is compiled
once per bucket. tests/kernels/ahead_of_time compiles every entry: no spills, within the shared memory.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch

TOKEN_BUCKETS = (16, 32, 64, 128)
"""The smallest that holds all tokens is taken; the last one holds any number."""

ARCHITECTURES = ("sm_80", "sm_90", "sm_100", "gfx942")
"""What the tables were made for: A100, H100 and H200, B200, MI300X."""

_SHARED_KIB = {"sm_80": 163, "sm_90": 227, "sm_100": 227, "gfx942": 64}


@dataclass(frozen=True, slots=True)
class Launch:
    """How a kernel is launched."""

    tiles: Mapping[str, int]
    """The kernel's constexpr tile sizes, by the names of its parameters."""
    num_warps: int
    num_stages: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "tiles", MappingProxyType(dict(self.tiles)))

    def arguments(self) -> dict[str, int]:
        """Keyword arguments of the kernel."""
        return {**self.tiles, "num_warps": self.num_warps, "num_stages": self.num_stages}


Table = dict[str, Mapping[int, Launch]]
"""Architecture, or "default" for every other one, to token bucket to launch; bucket 0 where tokens do not matter."""


def token_bucket(num_tokens: int) -> int:
    """The bucket of a number of tokens."""
    return next((bucket for bucket in TOKEN_BUCKETS if num_tokens <= bucket), TOKEN_BUCKETS[-1])


def launch(table: Table, num_tokens: int, device: torch.device) -> Launch:
    """The table's entry for this many tokens on this device."""
    by_bucket = table.get(architecture(device), table["default"])
    return by_bucket[0] if 0 in by_bucket else by_bucket[token_bucket(num_tokens)]


@functools.cache
def architecture(device: torch.device) -> str:
    """The name of a GPU's architecture as in ARCHITECTURES, "sm_90" or "gfx942"; "cpu" for the interpreter."""
    if device.type == "cpu":
        return "cpu"
    if torch.version.hip:
        return str(torch.cuda.get_device_properties(device).gcnArchName).split(":")[0]
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}"


def shared_bytes(architecture: str) -> int:
    """Shared memory that a program can have; of an architecture that is not listed, what every listed one has.

    Source: CUDA's table of compute capabilities (shared memory per block); AMD's for CDNA3 (LDS).
    """
    return 1024 * _SHARED_KIB.get(architecture, min(_SHARED_KIB.values()))


def loss_chunk_size(device: torch.device, hidden_size: int, vocab_size: int = 0, *, mean_embedding: bool) -> int:
    """Tokens whose logits `linear_kl` makes at a time.

    On a GPU, as few as fill it in the gradient's product [C, V] x [V, D], whose output has C D / 128 / 256 tiles, and
    of a large vocabulary half as many: 1,024 x 151,936 logits are 1.45 GiB, 10 bytes each. On a CPU, less: several
    tensors [C, V] are passed over in turn.
    """
    if device.type == "cpu":
        return 256 if mean_embedding else 128
    return 1024 if hidden_size >= 4096 or vocab_size >= 100_000 else 2048
