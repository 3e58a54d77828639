"""What `vllm-mtp bench claims` runs: its config made concrete, and checked, before anything is trained."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from vllm_mtp.benchmarks.claims import eagle3
from vllm_mtp.benchmarks.claims.arms import DRAFT, FULL, Arm, Comparison, arms_of, comparisons
from vllm_mtp.benchmarks.claims.config import PEERS, ClaimsConfig
from vllm_mtp.benchmarks.claims.data import ClaimsData, Sources, prepare
from vllm_mtp.benchmarks.harness.prompts import sha256_of_tokens
from vllm_mtp.benchmarks.harness.row_store import RowStore, serving_dtype_of
from vllm_mtp.common.provenance import hardware
from vllm_mtp.contract.fingerprint import stored_weights_sha256
from vllm_mtp.training.config import TrainConfig
from vllm_mtp.training.frozen.shape import mlp_width
from vllm_mtp.training.frozen.target import architecture_of, config_and_tokenizer, fingerprint_of

OF_ALL_ROWS = (
    *("tokens", "data_tokens", "sequence_length", "batch_size", "num_speculative_tokens", "temperature"),
    *("max_tokens", "max_num_seqs", "num_prompts", "engine"),
)
SPEED = "speed"


@dataclass(frozen=True, kw_only=True, slots=True)
class Study:
    """A config made concrete."""

    config: ClaimsConfig
    comparisons: list[Comparison]
    target: str
    dtype: str
    """Dtype of the matrix products in training, and of serving."""
    output: Path
    data: ClaimsData
    identity: dict[str, Any]
    """Hashes of target and prompts."""

    @property
    def arms(self) -> list[Arm]:
        return arms_of(self.comparisons)

    def store(self) -> RowStore:
        """Rows depend on the usual recipe, and on the text of their own arm only: other claims may have other files."""
        config = self.config
        settings = {name: getattr(config, name) for name in OF_ALL_ROWS} | self.identity | {"dtype": self.dtype}
        settings = asdict(TrainConfig()) | settings | config.engine_options.settings()
        kinds = {kind_of(arm): settings | self.data.hashes_of(arm) for arm in self.arms}
        if config.speed_passes:
            speed = {name: getattr(config, name) for name in ("speed_passes", "speed_prompts", "enforce_eager")}
            kinds[SPEED] = settings | speed | {"hardware": hardware()}
        return RowStore(self.output, kinds)


def set_up(config: ClaimsConfig, sources: Sources, *, target: str, output: Path) -> Study:
    """Reads the target, and makes or finds the data.

    Raises:
        ValueError: for inputs that cannot be used.
    """
    source, revision = config.engine_options.source(), config.engine_options.revision
    dtype = serving_dtype_of(output, config.dtype, target, **source)
    whole_config, tokenizer = config_and_tokenizer(target, by_transformers=True, **source)
    width = mlp_width(whole_config.get_text_config())
    if set(PEERS) & set(config.claims):
        eagle3.check(config.engine, architecture_of(whole_config))
    wanted = comparisons(config, DRAFT if sources.draft_vocab else FULL, width)
    data = prepare(
        replace(config, dtype=dtype), sources, arms_of(wanted), target=target, tokenizer=tokenizer, output=output
    )
    return Study(
        config=config,
        comparisons=wanted,
        target=target,
        dtype=dtype,
        output=output,
        data=data,
        identity={
            "target": fingerprint_of(target, whole_config, tokenizer, revision=revision)["weights_sha256"],
            "target_weights": stored_weights_sha256(target, revision=revision),
            "prompts_sha256": data.about["prompts_sha256"],
            "prompt_tokens": sha256_of_tokens(data.prompts),
        },
    )


def kind_of(arm: Arm) -> str:
    """The kind of an arm's rows: those that depend on the same data."""
    return f"arm-{'-'.join(arm.stages)}-{arm.vocabulary}"
