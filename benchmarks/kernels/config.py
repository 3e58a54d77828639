"""What `vllm-mtp bench kernels` and `tune-kernels` measure. Imports no torch: the command line is built from it."""

from dataclasses import dataclass

from vllm_mtp.common.errors import InputError
from vllm_mtp.common.settings import check_choices, setting

SIZES = ("auto", "smoke", "quick", "full")
DEVICES = ("auto", "cpu", "cuda")
KERNELS = ("linear_kl", "draft_head", "embed_hidden_projection")


@dataclass(frozen=True, kw_only=True, slots=True)
class KernelsConfig:
    """What is measured; the commands have a flag for every field."""

    size: str = setting(
        "auto",
        "smoke: tiny shapes, for tests. quick: the shapes that decide. full: all. auto: full on a GPU, else smoke.",
        choices=SIZES,
    )
    device: str = setting("auto", "auto: a GPU where there is one.", choices=DEVICES)
    seconds: float = setting(0.5, "Seconds that each one is run for, three times at least.")
    kernels: tuple[str, ...] = setting(KERNELS, "Kernels to measure.", choices=KERNELS)

    def __post_init__(self) -> None:
        check_choices(self)
        if not self.kernels:
            raise InputError("kernels", f"expected some of {', '.join(KERNELS)}, got none")
        if self.seconds <= 0:
            raise InputError("seconds", f"expected a number above 0, got {self.seconds}")
