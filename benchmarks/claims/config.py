"""What `vllm-mtp bench claims` trains and measures. Light: the command line is built from it."""

from dataclasses import dataclass

from vllm_mtp.common.engine_options import EngineOptions
from vllm_mtp.common.errors import InputError
from vllm_mtp.common.settings import check_at_least, check_choices, check_temperature, setting
from vllm_mtp.training.config import DTYPES

PAPER = ("objective", "objective-general", "pretraining", "unrolling", "vocabulary")
RECIPE = (
    *("step-tokens", "step-weights", "qk-norm", "tv", "lk", "e2e-tv", "loss-on"),
    *("single-step", "steps", "learning-rate", "width", "batch-size", "cut", "rows", "keep"),
    *("projection-init", "last-layer"),
)
"""One setting of training changed at a time."""
PEERS = ("eagle3", "eagle3-rate")
"""The other drafter that one can train for any target, by its trainer's defaults and with this recipe's rate."""
ENGINES = ("vllm", "torch")


@dataclass(frozen=True, kw_only=True, slots=True)
class ClaimsConfig:
    """The study: which claims, on how many seeds, at how many tokens."""

    claims: tuple[str, ...] = setting(
        PAPER,
        "Claims to test. The default ones are the paper's, seven arms; all have thirty-three. An arm takes one to "
        "three minutes a seed on two cores.",
        choices=(*PAPER, *RECIPE, *PEERS),
    )
    seeds: tuple[int, ...] = setting((0, 1, 2), "Seeds of weights and order; arms are paired by seed.")
    tokens: int = setting(500_000, "Tokens that every arm sees, over all of its stages.")
    data_tokens: int = setting(200_000, "Distinct tokens of a stage, about; a document is read whole.")
    num_steps_unrolled: int = setting(3, "K of the arms that unroll.")
    sequence_length: int = setting(256, "Tokens of a row of training.")
    batch_size: int = setting(8, "Rows of that length per step.")
    draft_vocab_size: int = setting(512, "Tokens of the draft vocabulary that is made here.")
    num_speculative_tokens: int = setting(3, "K at which acceptance is measured.")
    temperature: tuple[float, ...] = setting((0.0, 1.0), "Temperatures at which acceptance is measured.")
    max_tokens: int = setting(96, "Tokens generated per prompt; end-of-text does not end an output.")
    num_prompts: int = setting(96, "Most held-out prompts to measure on.")
    engine: str = setting("vllm", "torch: the plain loop, batch 1, which counts the same.", choices=ENGINES)
    dtype: str = setting("auto", "Of training and serving. auto: the faster one, by a short probe.", choices=DTYPES)
    speed_passes: int = setting(
        3, "Passes over the prompts for tokens/s of the vocabulary claim; with 0 no speed is measured."
    )
    speed_prompts: int = setting(16, "Prompts of each of those passes.")
    max_num_seqs: int = setting(32, "Prompts generated together where acceptance is measured.")
    enforce_eager: bool = setting(False, "Run without torch.compile where tokens/s are measured.")
    engine_options: EngineOptions = EngineOptions()

    def __post_init__(self) -> None:
        check_choices(self)
        for name in ("claims", "seeds", "temperature"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise InputError(name, f"expected at least one and no two alike, got {list(values)}")
        check_at_least(self, tokens=4 * self.batch_size * self.sequence_length, data_tokens=1, num_steps_unrolled=2)
        check_at_least(self, num_prompts=1, draft_vocab_size=1, num_speculative_tokens=1, max_tokens=3)
        check_temperature(self)
        check_at_least(self, speed_passes=0, speed_prompts=1, max_num_seqs=1)
