"""KernelsConfig: what `vllm-mtp bench kernels` measures. Imports no torch: the command line reads it."""

from dataclasses import dataclass

SIZES = ("auto", "smoke", "quick", "full")
DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True, kw_only=True, slots=True)
class KernelsConfig:
    """What is measured; `vllm-mtp bench kernels` has a flag for every field."""

    size: str = "auto"
    """"smoke": tiny, for tests; "quick": the shapes that decide; "full": all; "auto": full on a GPU, else smoke."""
    device: str = "auto"
    """"auto": a GPU where there is one."""
    seconds: float = 0.5
    """How long each is run, three times at least."""

    def __post_init__(self) -> None:
        for name, allowed in (("size", SIZES), ("device", DEVICES)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}: expected one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        if self.seconds <= 0:
            raise ValueError(f"seconds: expected a positive number, got {self.seconds}")
