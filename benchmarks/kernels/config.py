"""KernelsConfig: what `vllm-mtp bench kernels` measures. Imports no torch: the command line reads it."""

from dataclasses import dataclass, field

SIZES = ("auto", "smoke", "quick", "full")
DEVICES = ("auto", "cpu", "cuda")
KERNELS = ("linear_kl", "draft_head", "embed_hidden_projection")


@dataclass(frozen=True, kw_only=True, slots=True)
class KernelsConfig:
    """What is measured; `vllm-mtp bench kernels` has a flag for every field."""

    size: str = "auto"
    """"smoke": tiny, for tests; "quick": the shapes that decide; "full": all; "auto": full on a GPU, else smoke."""
    device: str = "auto"
    """"auto": a GPU where there is one."""
    seconds: float = 0.5
    """How long each is run, three times at least."""
    kernels: tuple[str, ...] = KERNELS
    """Which of them."""
    tune: bool = field(default=False, metadata={"help": "time every launch worth trying, and write table entries"})
    """Instead: time every launch that is worth trying, and write the entries of the tables that won; on a GPU."""

    def __post_init__(self) -> None:
        for name, allowed in (("size", SIZES), ("device", DEVICES)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}: expected one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        if not self.kernels or not set(self.kernels) <= set(KERNELS):
            raise ValueError(f"kernels: expected some of {', '.join(KERNELS)}, got {' '.join(self.kernels)!r}")
        if self.seconds <= 0:
            raise ValueError(f"seconds: expected a positive number, got {self.seconds}")
