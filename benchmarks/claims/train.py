"""One arm of the claims study, trained by the project's own training code, in one stage or several."""

import functools
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from vllm_mtp.benchmarks.claims.arms import CUT, DRAFT, EAGLE3, Arm
from vllm_mtp.benchmarks.claims.config import ClaimsConfig
from vllm_mtp.benchmarks.claims.eagle3 import Eagle3Settings, train_eagle3
from vllm_mtp.benchmarks.claims.setup import Study
from vllm_mtp.common.engine_options import EngineOptions
from vllm_mtp.contract.checkpoint import write_lookup
from vllm_mtp.contract.fingerprint import tokenizer_sha256
from vllm_mtp.training.config import TrainConfig
from vllm_mtp.training.cut import cut_draft
from vllm_mtp.training.data.batches import Batches
from vllm_mtp.training.data.draft_vocab import load_draft_vocab
from vllm_mtp.training.data.rows import Source, num_tokens
from vllm_mtp.training.data.sources import read_sources
from vllm_mtp.training.frozen.target import FrozenTarget, config_and_tokenizer
from vllm_mtp.training.loop import train
from vllm_mtp.training.run import TrainInputs


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """A finished arm."""

    draft: Path
    tokens_seen: int
    seconds: float
    """Seconds of the training steps alone, the target's part left out; of a stage that was killed, since it went on."""
    distinct_tokens: list[int]
    """Tokens of each stage's text as read, what is held out included."""


def train_arm(study: Study, arm: Arm, seed: int, output: Path) -> Trained:
    """Trains an arm; what is finished of it is not trained again, a killed stage goes on from its checkpoint.

    Args:
        study: its `store` folder keeps what the target says, for all arms and seeds.
        arm: what to train.
        seed: of its weights and of the order of its data.
        output: folder; the drafter of each stage is in one of its own.
    """
    if arm.drafter == EAGLE3:
        return _train_eagle3(study, arm, seed, output)
    data = study.data
    infos: list[dict[str, Any]] = []
    draft: Path | None = None
    for number, stage in enumerate(arm.stages):
        folder = output / f"{number}-{stage}"
        inputs = TrainInputs(
            target=study.target,
            data=data.text[stage],
            output=folder,
            draft_vocab=data.draft_vocab if arm.vocabulary == DRAFT else None,
            initial=draft,
            store=study.output / "store",
            engine_options=EngineOptions(**study.config.engine_options.source()),
        )
        infos.append(train(_train_config(study, arm, number, seed), inputs))
        draft = folder
    assert draft is not None
    if arm.vocabulary == CUT:
        draft = _cut(study, draft, output / CUT)
    write_lookup(draft, None)  # what is compared is what the module learned
    return Trained(
        draft=draft,
        tokens_seen=sum(info["tokens_seen"] for info in infos),
        seconds=round(sum(info["seconds_of_last_run"] for info in infos), 1),
        distinct_tokens=[info["data_tokens"] for info in infos],
    )


def _cut(study: Study, draft: Path, output: Path) -> Path:
    """The drafter with the draft vocabulary in place of the whole one."""
    shutil.rmtree(output, ignore_errors=True)  # of a process that was killed
    cut_draft(draft, _draft_ids(study), output, {})
    return output


def _draft_ids(study: Study) -> Tensor:
    """The draft vocabulary, [J]."""
    assert study.data.draft_vocab is not None
    whole_config, tokenizer = config_and_tokenizer(study.target, **study.config.engine_options.source())
    vocab_size, sha256 = whole_config.get_text_config().vocab_size, tokenizer_sha256(tokenizer.get_vocab())
    return load_draft_vocab(study.data.draft_vocab, vocab_size, sha256)


def _train_eagle3(study: Study, arm: Arm, seed: int, output: Path) -> Trained:
    """An arm of the peer, on the batches of the others, as many steps."""
    config = study.config
    text = study.data.text[arm.stages[0]]
    sources = _sources(text, study.target, config)
    batches = _batches(sources, config, seed)
    num_steps = max(1, round(config.tokens / tokens_per_step(text, study.target, config)))
    run = train_eagle3(
        Eagle3Settings(num_steps_unrolled=arm.num_steps_unrolled, **dict(arm.settings)),
        FrozenTarget.load(study.target, dtype=study.dtype, **config.engine_options.source()),
        study.target,
        batches,
        num_steps,
        draft_ids_J=_draft_ids(study) if arm.vocabulary == DRAFT else None,
        seed=seed,
        output=output,
    )
    return Trained(
        draft=output,
        tokens_seen=batches.tokens_seen(num_steps),
        seconds=round(run.seconds, 1),
        distinct_tokens=[sum(num_tokens(source.rows) for source in sources)],
    )


def _train_config(study: Study, arm: Arm, stage: int, seed: int) -> TrainConfig:
    usual = {name: getattr(study.config, name) for name in ("batch_size", "sequence_length")}
    settings = usual | {"checkpoint_every": 500} | arm.train_settings(stage)
    config = replace(study.config, **{name: settings[name] for name in usual})
    text = study.data.text[arm.stages[stage]]
    share = config.tokens / len(arm.stages)
    num_steps = max(1, round(share / tokens_per_step(text, study.target, config)))
    return TrainConfig(
        tokens=num_steps * config.batch_size * config.sequence_length,
        data_tokens=config.data_tokens,
        dtype=study.dtype,
        seed=seed,
        **settings,
    )


@functools.cache  # the arms of all seeds read the same few texts
def tokens_per_step(text: tuple[Path, ...], target: str, config: ClaimsConfig) -> float:
    """Positions that count in a step of such text, on average: conversations do not fill their batches.

    Steps are chosen by it, so that arms on different text see equally many tokens.
    """
    batches = _batches(_sources(text, target, config), config, seed=0)
    return batches.tokens_seen(len(batches)) / len(batches)


def _sources(text: tuple[Path, ...], target: str, config: ClaimsConfig) -> list[Source]:
    whole_config, tokenizer = config_and_tokenizer(target, **config.engine_options.source())
    vocab_size = whole_config.get_text_config().vocab_size
    return read_sources(text, tokenizer, config.sequence_length + 1, config.data_tokens, vocab_size=vocab_size)


def _batches(sources: Sequence[Source], config: ClaimsConfig, seed: int) -> Batches:
    return Batches([one.rows for one in sources], config.batch_size * config.sequence_length, seed)
