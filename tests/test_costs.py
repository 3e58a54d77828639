"""The computed columns of docs/your-model.md, "What it costs": its own formulas, on the shapes of Llama 3.1.

Catches: a figure that was changed by hand, or that a formula no longer gives.
"""

from dataclasses import dataclass
from pathlib import Path

from vllm_mtp.benchmarks.training.floor import of_muon

ROOT = Path(__file__).resolve().parent.parent
FLOP_PER_SECOND = 300e12  # assumed, of one GPU
WEIGHTS_PER_SECOND = 1.82e12  # bytes that one GPU read, measured: 7,128 tokens/s at 64 requests, 8.19 G parameters
NUM_REQUESTS = 64
TOKENS, POSITIONS = 10e6, 40e6
J = 32_768  # ids of the draft vocabulary
BATCH = 8 * 2_048  # positions of a step
GIB = 2**30


@dataclass(frozen=True)
class Costs:
    """Of a Llama with 8 KV heads of 128."""

    hidden: int
    mlp: int
    layers: int
    gpus: int

    @property
    def layer(self) -> int:
        """Parameters of one layer."""
        return self.hidden * (2 * self.hidden + 2 * 8 * 128 + 3 * self.mlp)

    @property
    def target(self) -> int:
        return self.layers * self.layer + 2 * 128_256 * self.hidden

    @property
    def module(self) -> int:
        return self.layer + 2 * self.hidden**2

    @property
    def generated(self) -> float:
        """Tokens a second."""
        return NUM_REQUESTS * WEIGHTS_PER_SECOND * self.gpus / (2 * self.target)

    @property
    def read(self) -> float:
        """Tokens a second that the target reads."""
        return self.gpus * FLOP_PER_SECOND / (2 * self.target)

    @property
    def store(self) -> float:
        return TOKENS * (4 * self.hidden + 8)

    def trained(self, num_steps: int) -> float:
        """Positions a second, on one GPU."""
        return FLOP_PER_SECOND / (num_steps * (6 * self.module + 4 * J * self.hidden))

    @property
    def update(self) -> float:
        """Seconds of a step, whatever its batch: Muon on every matrix."""
        hidden, key_value = self.hidden, 8 * 128
        attention = [(hidden, hidden)] * 2 + [(key_value, hidden)] * 2
        return of_muon([(hidden, 2 * hidden), *attention, *[(self.mlp, hidden)] * 3]) / FLOP_PER_SECOND

    @property
    def training(self) -> float:
        """Seconds: 60% of the steps train one draft step, the others three."""
        passes = 0.6 * POSITIONS / self.trained(1) + 0.4 * POSITIONS / self.trained(3)
        return passes + POSITIONS / BATCH * self.update

    @property
    def memory(self) -> float:
        """Without the target, but for embedding and head."""
        shared = 2 * 2 * 128_256 * self.hidden
        return shared + 12 * self.module + 3 * 75 * self.hidden * BATCH + 10 * J * 2_048


def minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min"


def rate(per_second: float) -> str:
    """Two digits."""
    return f"{float(f'{per_second:.1e}'):,.0f}"


def cells(costs: Costs) -> dict[str, str]:
    return {
        "GPUs": f"{costs.gpus}",
        "generate": f"{minutes(TOKENS / costs.generated)} ({rate(costs.generated)} tokens/s)",
        "target over the data": minutes(TOKENS / costs.read),
        "store": f"{costs.store / GIB:.0f} GiB",
        "train, one draft step": f"{rate(costs.trained(1))} positions/s",
        "train, three draft steps": f"{rate(costs.trained(3))} positions/s",
        "update of a step": f"{1000 * costs.update:.0f} ms",
        "train in all": minutes(costs.training),
        "memory of the target": f"{2 * costs.target / GIB:.0f} GiB",
        "memory in training": f"{costs.memory / GIB:.0f} GiB",
        "the drafter": f"{2 * costs.module / 1e9:.1f} GB ({costs.module / 1e6:.0f} M parameters)",
        "KV cache it adds": f"4 KiB a token, 1/{costs.layers}",
    }


def test_what_is_computed_is_what_the_formulas_give() -> None:
    of_8b = cells(Costs(hidden=4_096, mlp=14_336, layers=32, gpus=1))
    of_70b = cells(Costs(hidden=8_192, mlp=28_672, layers=80, gpus=4))
    text = (ROOT / "docs" / "your-model.md").read_text(encoding="utf-8")
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    found = {row[0]: row[2:4] for row in rows if len(row) >= 4}
    assert {name: found.get(name) for name in of_8b} == {name: [of_8b[name], of_70b[name]] for name in of_8b}
