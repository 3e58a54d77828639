"""A training run: what it is made from (`TrainInputs`), and what its steps work on (`Run`)."""

# Shapes: L tokens of a row, J draft vocabulary.

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from vllm_mtp.common.engine_options import EngineOptions
from vllm_mtp.common.errors import InputError
from vllm_mtp.contract.config import MTPConfig
from vllm_mtp.contract.fingerprint import tokenizer_sha256
from vllm_mtp.contract.pair import why_not_served
from vllm_mtp.contract.tensors import WEIGHTS_FILE
from vllm_mtp.module.mtp import MTPModule
from vllm_mtp.training.checkpoint import (
    Best,
    Checkpoint,
    check_same_run,
    load_checkpoint,
    load_run_info,
    room_for_checkpoints,
)
from vllm_mtp.training.cluster_options import ClusterOptions
from vllm_mtp.training.config import COMPILE, TrainConfig
from vllm_mtp.training.data.batches import Batch, Batches
from vllm_mtp.training.data.chat.options import TemplateOptions
from vllm_mtp.training.data.draft_vocab import load_draft_vocab
from vllm_mtp.training.data.rows import Source
from vllm_mtp.training.data.sources import check_files, read_sources
from vllm_mtp.training.frozen.reachable import anywhere
from vllm_mtp.training.frozen.reading import Elsewhere
from vllm_mtp.training.frozen.served import ServedTarget
from vllm_mtp.training.frozen.states import TargetStates
from vllm_mtp.training.frozen.target import FrozenTarget, config_and_tokenizer
from vllm_mtp.training.loss.compiled import compiler_fault
from vllm_mtp.training.loss.fixed import MAX_SHAPES, FixedStep
from vllm_mtp.training.loss.loss import Loss, compare, tokens_at_checkpoints
from vllm_mtp.training.loss.objective import Distillation
from vllm_mtp.training.loss.shapes import Shape, fixed_shapes, shapes_of
from vllm_mtp.training.optimizers import make_optimizers
from vllm_mtp.training.ranks import Ranks
from vllm_mtp.training.record import Entry, RunIdentity
from vllm_mtp.training.start.initial import draft_config_for, initial_tensors, make_module, origin, trained_length
from vllm_mtp.training.watch import check_reports
from vllm_mtp.training.work import check_workers

_LEAST_STEPS_OF_A_SHAPE = 1000
"""That pay for compiling it: a minute or so, for one draft step and for K."""
_STEPS_OF_A_RATE = 20
"""That the speed shown is of."""
_MOST_ROOM = 1.25
"""Times the largest batch that a step may be padded to without being asked: its memory was chosen by --batch-size."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainInputs:
    """What a run reads and where it writes; TrainConfig has what else decides the outcome."""

    target: str
    """Folder or Hub id of the frozen target."""
    data: Sequence[Path]
    """Text, records (data/records.py), and folders of `vllm-mtp generate`."""
    output: Path
    """The drafter's folder."""
    draft_vocab: Path | None = None
    """File of `vllm-mtp vocab`; None drafts over the whole vocabulary."""
    initial: Path | None = None
    """Folder of a drafter to go on from, instead of random weights."""
    store: Path | None = None
    """Folder that keeps what the target says of each batch (frozen/states.py)."""
    target_name: str = ""
    """What the drafter's card calls the target; empty: its Hub id or its folder's name."""
    device: str = "auto"
    """ "auto", "cpu" or "cuda"."""
    template: TemplateOptions = TemplateOptions()
    """How conversations that exist are rendered."""
    skip_bad: bool = False
    """Leave out and count records that cannot be used; False: the first is an error."""
    report_to: tuple[str, ...] | None = None
    """What shows the run while it runs (watch.py); None: JSON lines, and TensorBoard where it is installed."""
    compile: str = "auto"
    """Steps at a handful of shapes, compiled: "on", "off", or "auto", on a GPU where the run is long enough for it."""
    accumulate: int = 1
    """Parts that each batch is computed in, one after another."""
    recompute: bool = False
    """Compute each draft step again for its gradient, rather than keep all that it computed."""
    engine_options: EngineOptions = EngineOptions()
    """Revision and code of the target; with hidden states of vLLM, its engine's options."""
    cluster: ClusterOptions = ClusterOptions()
    """Workers that fill the store; none: the processes of the run."""
    argv: Sequence[str] = ()
    """The command, for run_info.json."""
    show_progress: bool = True
    """Say what is done, and draw a progress bar on standard error."""

    def say(self, text: str) -> None:
        """Prints a line beside the progress bar, where there is one."""
        if self.show_progress:
            tqdm.write(text)


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """A run that the output folder holds, finished."""

    info: dict[str, Any]
    """Content of its run_info.json."""


@dataclass(kw_only=True, slots=True)
class Run:
    """What the steps of a run work on. Module, optimizers, log and counts change with every step."""

    config: TrainConfig
    inputs: TrainInputs
    identity: RunIdentity
    target: FrozenTarget
    sources: list[Source]
    batches: Batches
    module: MTPModule
    optimizers: list[torch.optim.Optimizer]
    loss: Loss
    compare: Callable[..., Distillation]
    """`compare` of training/loss/loss.py, or the same at fixed shapes."""
    states: TargetStates
    ranks: Ranks
    """The processes that share every batch."""
    checkpoint: Checkpoint | None
    """Where an earlier process was killed; None once it is taken up."""
    first_step: int = 0
    log: list[Entry] = field(default_factory=list)
    """One entry for every step that is done, by earlier processes too."""
    best: Best | None = None
    """The best module so far; None where the last one is kept."""
    target_tokens_per_second: float | None = None
    """Rate of the target's pass over the data; None where there was nothing to do."""
    started: float = 0.0
    """Time at which this process began its first step, seconds of time.perf_counter."""
    next_save: float = 0.0
    """Time before which no checkpoint is written on the way, likewise."""
    num_tokens: int = 0
    """Positions that counted in the steps of this process."""
    recent: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=_STEPS_OF_A_RATE))
    """Positions that counted in each of the last steps, and its seconds, without what a checkpoint takes."""

    @property
    def num_parts(self) -> int:
        """That every batch is computed in, over all processes."""
        return self.ranks.size * self.inputs.accumulate

    def resume(self) -> None:
        """Goes on from the checkpoint, where there is one."""
        if self.checkpoint is None:
            return
        try:
            self.module.load_state_dict(self.checkpoint.module)
            for optimizer, state in zip(self.optimizers, self.checkpoint.optimizers, strict=True):
                optimizer.load_state_dict(state)
        except (RuntimeError, ValueError, LookupError, TypeError) as error:
            raise InputError(
                "output",
                f"the checkpoint of step {self.checkpoint.step} in {self.inputs.output} does not fit this run "
                f"({type(error).__name__}). Delete it to go on from the one before, or give another output.",
            ) from error
        self.first_step, self.log = self.checkpoint.step, list(self.checkpoint.log)
        self.best = self.checkpoint.best
        self.checkpoint = None
        self.inputs.say(f"{self.inputs.output} goes on after step {self.first_step}")

    def held_out_batches(self, *, is_last: bool) -> list[Batch]:
        """What is measured at a checkpoint: everything that is held out at the last one, less on the way."""
        return _held_out(self.batches, self.loss, self.config, is_last)

    def state(self) -> Checkpoint:
        """The state after the last entry of the log."""
        return Checkpoint(
            step=self.log[-1].step,
            log=self.log,
            module=self.module.state_dict(),
            optimizers=[optimizer.state_dict() for optimizer in self.optimizers],
            identity=self.identity,
            best=self.best,
        )


def prepare(config: TrainConfig, inputs: TrainInputs, ranks: Ranks | None = None) -> Run | Finished:
    """Reads and checks everything that a run needs, before any training.

    Args:
        config: what decides the outcome.
        inputs: what is read, and where the drafter goes.
        ranks: this process among those of the run; None: the only one.

    Returns:
        The run at its first step, to be resumed; or what the output folder has of it, finished.

    Raises:
        ValueError: for a target, data or output that cannot be used, or an output that holds another run.
    """
    ranks = ranks or Ranks()
    if inputs.compile not in COMPILE:
        raise InputError("compile", f"expected one of {', '.join(COMPILE)}, got {inputs.compile!r}")
    if inputs.accumulate < 1:
        raise InputError("accumulate", f"expected at least 1, got {inputs.accumulate}")
    check_reports(inputs.report_to)
    _check_hidden_states(config, inputs)
    _check_cluster(inputs)
    check_files(inputs.data)
    info = load_run_info(inputs.output)
    checkpoint = load_checkpoint(inputs.output) if info is None else None
    earlier = _earlier_identity(info, checkpoint)
    # The probe behind "auto" may decide otherwise next time: a run keeps the dtype that it began with.
    dtype = config.dtype if earlier is None else earlier.dtype
    # Before the target's weights, so that what is wrong with other inputs is found at once.
    source = inputs.engine_options.source()
    whole_config, tokenizer = config_and_tokenizer(inputs.target, by_transformers=not config.is_served, **source)
    text_config = whole_config.get_text_config()
    draft_ids_J = _draft_ids(inputs.draft_vocab, text_config.vocab_size, tokenizer)
    initial_sha256 = None if inputs.initial is None else _sha256_of_file(inputs.initial / WEIGHTS_FILE)
    draft_config = draft_config_for(text_config, config, {}, draft_ids_J, inputs.initial)
    initial = _initial_tensors(inputs, draft_config, draft_ids_J, tokenizer)
    sources = _read(config, inputs, tokenizer, text_config.vocab_size)
    for one in sources:
        one.check_enough()
    load = _loader(config, inputs)
    target = load(dtype=dtype)
    if reason := why_not_served(inputs.target, revision=inputs.engine_options.revision):
        inputs.say(reason)
    fingerprint = target.fingerprint()
    if inputs.initial is not None:
        inputs.say(origin(inputs.initial, fingerprint, draft_ids_J))
    draft_config.target_fingerprint = fingerprint
    batches = Batches([source.rows for source in sources], config.batch_size * config.sequence_length, config.seed)
    identity = RunIdentity(
        config=asdict(config),
        target=fingerprint,
        target_weights_sha256=target.weights_sha256,
        data_sha256=_sha256(row.ids_L for source in sources for row in source.rows),
        draft_vocab_sha256=None if draft_ids_J is None else _sha256([draft_ids_J]),
        draft_vocab_size=draft_config.draft_vocab_size,
        initial_sha256=initial_sha256,
        dtype=target.dtype_name,
    )
    ranks.check_same((asdict(identity), info is None, None if checkpoint is None else checkpoint.step))
    if earlier is not None:
        check_same_run(earlier, identity, config=config, folder=inputs.output, is_finished=info is not None)
    if info is not None:
        return Finished(info=info)
    rows = (row.ids_L for source in sources for row in source.rows)
    draft_config.trained_length = trained_length(rows, inputs.initial)
    module = make_module(draft_config, draft_ids_J, config.seed, initial).to(target.device)
    loss = Loss(target, draft_ids_J, config)
    states = TargetStates(
        target,
        batches,
        config.num_steps,
        head=loss.head,
        with_teacher=loss.uses_mean_embedding,
        store=inputs.store,
        draft_ids_J=draft_ids_J,
        held_out=[batch for is_last in (False, True) for batch in _held_out(batches, loss, config, is_last)],
        ranks=ranks,
        num_parts=ranks.size * inputs.accumulate,
        room_besides=_room_besides(module, config, inputs),
        elsewhere=None
        if inputs.cluster.ray is None
        else Elsewhere(
            cluster=inputs.cluster,
            load=partial(load, dtype=target.dtype_name),
            path=anywhere(inputs.target),
            options=inputs.engine_options,
            weights_sha256=target.weights_sha256,
            draft_ids_J=draft_ids_J,
            with_teacher=loss.uses_mean_embedding,
        ),
    )
    return Run(
        config=config,
        inputs=inputs,
        identity=identity,
        target=target,
        sources=sources,
        batches=batches,
        module=module,
        optimizers=make_optimizers(module, config, target.dtype),
        loss=loss,
        compare=_compare(config, inputs, loss, batches, ranks),
        states=states,
        ranks=ranks,
        checkpoint=checkpoint,
    )


def _room_besides(module: MTPModule, config: TrainConfig, inputs: TrainInputs) -> int:
    """Bytes of the checkpoints, where they share a disk with the store."""
    if inputs.store is None or _device_of(inputs.store) != _device_of(inputs.output):
        return 0
    num_parameters = sum(parameter.numel() for parameter in module.parameters())
    return room_for_checkpoints(inputs.output, num_parameters, config)


def _device_of(path: Path) -> int:
    """The disk that a path is on, or will be."""
    return next(folder for folder in (path, *path.absolute().parents) if folder.exists()).stat().st_dev


def _check_hidden_states(config: TrainConfig, inputs: TrainInputs) -> None:
    if config.is_served and inputs.store is None:
        raise InputError("hidden_states", "vllm needs a store, from which the steps read them: expected one, got none")
    given = inputs.engine_options.engine_args().keys() - inputs.engine_options.source().keys()
    if given and not config.is_served:
        raise InputError(min(given), "is of vLLM's engine: expected hidden_states vllm beside it, got transformers")


def _check_cluster(inputs: TrainInputs) -> None:
    if inputs.cluster.ray is not None and inputs.store is None:
        raise InputError("ray", "its workers fill a store: expected one, got none")
    check_workers(inputs.cluster)


def _loader(config: TrainConfig, inputs: TrainInputs) -> Callable[..., FrozenTarget]:
    """What loads the target, given its dtype and, on another machine, the device."""
    path = anywhere(inputs.target)
    how: dict[str, Any] = {"name": inputs.target_name, "device": inputs.device}
    if config.is_served:
        return partial(ServedTarget.open, path, inputs.engine_options, config.sequence_length + 1, **how)
    return partial(FrozenTarget.load, path, **how, **inputs.engine_options.source())


def _compare(
    config: TrainConfig, inputs: TrainInputs, loss: Loss, batches: Batches, ranks: Ranks
) -> Callable[..., Distillation]:
    """How a step compares drafter and target: plainly, or at fixed shapes."""
    device = loss.target.device
    if inputs.compile == "off" or (inputs.compile == "auto" and device.type != "cuda"):
        return compare
    of_batches = list(shapes_of(batches, ranks.size * inputs.accumulate))
    shapes = fixed_shapes(of_batches, MAX_SHAPES)
    is_auto = inputs.compile == "auto"
    why_not = (_why_as_they_are(config, of_batches, shapes) if is_auto else "") or compiler_fault(device)
    if is_auto and why_not:
        inputs.say(f"steps are not compiled: {why_not}")
        return compare
    sizes = ", ".join(f"{shape.num_rows} x {shape.num_tokens}" for shape in shapes)
    inputs.say(f"steps at {len(shapes)} shapes ({sizes}), {f'not compiled: {why_not}' if why_not else 'compiled'}")
    return FixedStep(shapes, None if why_not else "inductor", inputs.say)


def _why_as_they_are(config: TrainConfig, of_batches: Sequence[Shape], shapes: Sequence[Shape]) -> str:
    """Why batches keep their own shapes where nobody asked for others; empty where a handful pays."""
    if config.num_steps < _LEAST_STEPS_OF_A_SHAPE * len(shapes):
        return f"fewer than {_LEAST_STEPS_OF_A_SHAPE:,} steps for each of {len(shapes)} shapes"
    wider = max(shape.num_positions for shape in shapes) / max(shape.num_positions for shape in of_batches)
    if wider > _MOST_ROOM:
        return (
            f"at {len(shapes)} shapes the largest step would have {wider:.1f} times the positions of the largest batch"
        )
    return ""


def _held_out(batches: Batches, loss: Loss, config: TrainConfig, is_last: bool) -> list[Batch]:
    return batches.held_out(None if is_last else tokens_at_checkpoints(loss, config))


def _earlier_identity(info: dict[str, Any] | None, checkpoint: Checkpoint | None) -> RunIdentity | None:
    if info is not None:
        return RunIdentity.from_stored(info)
    return None if checkpoint is None else checkpoint.identity


def _draft_ids(draft_vocab: Path | None, vocab_size: int, tokenizer: Any) -> Tensor | None:
    if draft_vocab is None:
        return None
    return load_draft_vocab(draft_vocab, vocab_size, tokenizer_sha256(tokenizer.get_vocab()))


def _initial_tensors(
    inputs: TrainInputs, draft_config: MTPConfig, draft_ids_J: Tensor | None, tokenizer: Any
) -> dict[str, Tensor] | None:
    if inputs.initial is None:
        return None
    vocabulary = tokenizer.get_vocab()
    return initial_tensors(inputs.initial, draft_config, draft_ids_J, target=inputs.target, vocabulary=vocabulary)


def _read(config: TrainConfig, inputs: TrainInputs, tokenizer: Any, vocab_size: int) -> list[Source]:
    """What is trained on, and what Batches holds out of it."""
    row_length = config.sequence_length + 1
    return read_sources(
        inputs.data,
        tokenizer,
        row_length,
        max_tokens=int(1.1 * (config.data_tokens or config.tokens)) + 40 * row_length,
        vocab_size=vocab_size,
        loss_on=config.loss_on,
        template=inputs.template,
        skip_bad=inputs.skip_bad,
        show_progress=inputs.show_progress,
    )


def _sha256(tensors: Iterable[Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.long().numpy().tobytes())
    return digest.hexdigest()


def _sha256_of_file(path: Path) -> str:
    if not path.is_file():
        raise InputError("initial", f"expected a drafter's folder, found no {path}")
    return hashlib.sha256(path.read_bytes()).hexdigest()
