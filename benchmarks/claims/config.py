"""What `vllm-mtp bench claims` trains and measures. Light: the command line is built from it."""

from dataclasses import dataclass, field

from vllm_mtp.training.config import DTYPES

CLAIMS = ("objective", "objective-general", "pretraining", "unrolling", "vocabulary")
ENGINES = ("vllm", "torch")


@dataclass(frozen=True, kw_only=True, slots=True)
class ClaimsConfig:
    """The study: which claims, on how many seeds, at how many tokens."""

    claims: tuple[str, ...] = field(default=CLAIMS, metadata={"help": "which of them"})
    seeds: tuple[int, ...] = field(default=(0, 1, 2), metadata={"help": "of weights and order; arms are paired by it"})
    tokens: int = field(default=500_000, metadata={"help": "seen by every arm, over all of its stages"})
    data_tokens: int = field(
        default=200_000, metadata={"help": "distinct tokens of a stage, about; a document is read whole"}
    )
    num_steps_unrolled: int = field(default=3, metadata={"help": "K of the arms that unroll"})
    sequence_length: int = field(default=256, metadata={"help": "of a row of training"})
    batch_size: int = field(default=8, metadata={"help": "rows of that length per step"})
    draft_vocab_size: int = field(default=512, metadata={"help": "of the draft vocabulary that is made here"})
    num_speculative_tokens: int = field(default=3, metadata={"help": "k at which acceptance is measured"})
    temperature: tuple[float, ...] = field(default=(0.0, 1.0), metadata={"help": "at which it is measured"})
    max_tokens: int = field(default=96, metadata={"help": "generated per prompt; end-of-text does not stop it"})
    num_prompts: int = field(default=96, metadata={"help": "held-out prompts, at most"})
    engine: str = field(default="vllm", metadata={"help": "torch: the plain loop, batch 1, which counts the same"})
    dtype: str = field(default="auto", metadata={"help": "of training and serving; auto: the faster one by a probe"})
    speed_passes: int = field(
        default=3, metadata={"help": "over the prompts for tokens/s of the vocabulary claim; 0: not measured"}
    )
    speed_prompts: int = field(default=16, metadata={"help": "prompts of each of those passes"})
    enforce_eager: bool = field(default=False, metadata={"help": "no torch.compile where tokens/s are measured"})

    def __post_init__(self) -> None:
        for name in ("claims", "seeds", "temperature"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ValueError(f"--{name}: expected at least one and no two alike, got {list(values)}")
        if unknown := [name for name in self.claims if name not in CLAIMS]:
            raise ValueError(f"--claims: expected some of {', '.join(CLAIMS)}, got {', '.join(unknown)}")
        for name, value, allowed in (("engine", self.engine, ENGINES), ("dtype", self.dtype, DTYPES)):
            if value not in allowed:
                raise ValueError(f"--{name}: expected one of {', '.join(allowed)}, got {value!r}")
        for name, least in (
            *((name, 1) for name in ("data_tokens", "num_prompts", "draft_vocab_size", "num_speculative_tokens")),
            *(("num_steps_unrolled", 2), ("max_tokens", 3), ("speed_passes", 0), ("speed_prompts", 1)),
            ("tokens", 4 * self.batch_size * self.sequence_length),
        ):
            if getattr(self, name) < least:
                flag = name.replace("_", "-")
                raise ValueError(f"--{flag}: expected an integer of at least {least}, got {getattr(self, name)}")
        if min(self.temperature) < 0:
            raise ValueError(f"--temperature: expected numbers of at least 0, got {list(self.temperature)}")
