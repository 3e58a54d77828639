"""`vllm-mtp train`: distils an MTP module from a frozen target, resumably."""

import math
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from vllm_mtp.common.claim import claimed
from vllm_mtp.common.errors import is_out_of_gpu_memory, is_out_of_memory
from vllm_mtp.common.plots import write_plot
from vllm_mtp.training.checkpoint import Best, remove_checkpoint, save_checkpoint
from vllm_mtp.training.config import NUM_SPECULATIVE_TOKENS, TrainConfig
from vllm_mtp.training.data.batches import Batch
from vllm_mtp.training.export import export, run_info
from vllm_mtp.training.frozen.reading import check_numbers
from vllm_mtp.training.interrupt import interrupt_held_back, leave
from vllm_mtp.training.loss.loss import held_out
from vllm_mtp.training.optimizers import clip_gradient, numbers_kept, update
from vllm_mtp.training.plot import PLOT_FILE, plot
from vllm_mtp.training.ranks import AnyByNow, Ranks
from vllm_mtp.training.record import Entry, HeldOut
from vllm_mtp.training.run import Finished, Run, TrainInputs, prepare
from vllm_mtp.training.start.start import set_start
from vllm_mtp.training.transfer import to_device
from vllm_mtp.training.watch import check_reports, values_of, watch

_MANY_STEPS = 0.1
"""Of all: that some processes have no row in fewer is not worth a line."""
_SHARE_FOR_SAVING = 0.05
"""Of the time, that checkpoints may take where one takes more than _SECONDS_TO_SAVE."""
_SECONDS_TO_SAVE = 1


def train(config: TrainConfig, inputs: TrainInputs) -> dict[str, Any]:
    """Distils a drafter and writes it to a folder that vLLM can serve from.

    Called again, it goes on from the last checkpoint; when the run is finished, it returns what it returned then.
    Ctrl-C, SIGTERM and, among several processes, the end of `torchrun` end it after a checkpoint.

    Args:
        config: what decides the outcome.
        inputs: what is read, and where the drafter goes.

    Returns:
        The content of run_info.json.

    Raises:
        ValueError: for a target, data or output that cannot be used, or that another process writes to, before any
            training.
    """
    ranks = Ranks.join(inputs.device)
    inputs = replace(inputs, show_progress=inputs.show_progress and ranks.is_first)
    with claimed(inputs.output, "output", inputs.say) if ranks.is_first else nullcontext():
        ranks.wait()  # until whoever ran before is gone, with his last checkpoint written
        return _train(config, inputs, ranks)


def _train(config: TrainConfig, inputs: TrainInputs, ranks: Ranks) -> dict[str, Any]:
    """`train`, with the output folder to itself."""
    run = prepare(config, inputs, ranks)
    if isinstance(run, Finished):
        if ranks.is_first:
            remove_checkpoint(inputs.output)
        inputs.say(f"{inputs.output} holds this run, finished: nothing to do")
        return run.info
    run.resume()
    _start(run)
    reports = check_reports(inputs.report_to) if ranks.is_first else ()
    with interrupt_held_back() as interrupt, watch(reports, inputs.output, run.first_step, asdict(config)) as show:
        bar, is_interrupted, any_by_now = _progress_bar(run), False, AnyByNow(ranks, run.target.device)
        for index in bar:
            entry = step(run, index)
            _show(bar, run, entry)
            show(entry.step, values_of(entry, config.learning_rate_factor(index), _tokens_per_second(run)))
            is_to_end = interrupt.number is not None or ranks.is_left_alone
            if is_interrupted := any_by_now(is_to_end, is_end=config.is_last(index)):
                _save(run)
                why = "torchrun is gone: " if ranks.is_left_alone else ""
                inputs.say(f"{why}checkpoint after step {entry.step}")
                break
    if is_interrupted:
        leave(interrupt.number or signal.SIGTERM)
    return finish(run)


def check_memory(run: Run) -> None:
    """Computes the gradient that takes most, of the batch with the largest part, with all draft steps, beside room for
    what a run gathers; and forgets it. Measures the largest held-out batch too.

    Raises:
        ValueError: where memory is too short for it, which it would be after hours of single draft steps.
    """
    largest = max(run.batches.visited(run.config.num_steps), key=lambda index: _most_positions(run, run.batches[index]))
    index, batch = run.config.num_steps - 1, run.batches[largest]
    with _memory_is_enough(run, index, batch, "before the first step, in a trial of the last"):
        room = torch.empty(_num_gathered(run), device=run.target.device)
        loss_and_gradient(run, index, batch, largest).tolist()
        run.module.zero_grad(set_to_none=True)
        measured = _largest(run, run.held_out_batches(is_last=True))
        with _memory_is_enough(run, index, measured, "before the first step, in a trial of what is measured"):
            _measure(run, [measured])
        del room


def _largest(run: Run, batches: Sequence[Batch]) -> Batch:
    return max(batches, key=lambda batch: _most_positions(run, batch))


def _most_positions(run: Run, batch: Batch) -> int:
    """Positions of the largest part that a batch is computed in."""
    return max(batch.rows(part).mask_BS.numel() for part in batch.parts(run.num_parts))


def _num_gathered(run: Run) -> int:
    """Numbers that are kept from the first steps on: of the optimizers, and the best module where that is kept."""
    num_parameters = sum(parameter.numel() for parameter in run.module.parameters())
    of_optimizers = 0 if run.first_step else numbers_kept(run.config)
    return num_parameters * (of_optimizers + (run.config.keep == "best" and run.best is None))


def step(run: Run, index: int) -> Entry:
    """One step: loss, gradient and update; at a checkpoint the held-out measures, and the run's state on disk if due.

    Args:
        run: changed by it.
        index: of the step, from 0.

    Raises:
        ValueError: if loss or gradient are no numbers, or memory is wanting; the checkpoints are as they were.
    """
    began = time.perf_counter()
    batch_index = run.batches.index(index)
    batch = run.batches[batch_index]
    run.states.start(batch_index)
    if index + 1 < run.config.num_steps:
        run.states.start(run.batches.index(index + 1))
    with _memory_is_enough(run, index, batch, f"at step {index + 1}"):
        norm, loss, *agreement = loss_and_gradient(run, index, batch, batch_index).tolist()
        if not math.isfinite(loss):
            for part in batch.parts(run.num_parts):
                check_numbers(run.states(batch_index, part).hidden_BSD, run.target)
    _check_number(run, index, "loss", loss)
    _check_number(run, index, "gradient", norm)
    update(run.optimizers, run.config.learning_rate_factor(index))
    run.num_tokens += batch.num_tokens
    run.recent.append((batch.num_tokens, time.perf_counter() - began))
    is_last = run.config.is_last(index)
    is_checkpoint = is_last or (index + 1) % run.config.checkpoint_every == 0
    entry = Entry(
        step=index + 1,
        loss=loss,
        agreement_per_position=[round(share, 4) for share in agreement],
        held_out=_measure_checkpoint(run, index) if is_checkpoint else None,
    )
    run.log.append(entry)
    if is_checkpoint:
        if run.config.keep == "best":
            assert entry.held_out is not None
            _keep_if_best(run, entry.step, entry.held_out)
        if is_last or time.perf_counter() >= run.next_save:
            _save(run)
    return entry


def finish(run: Run) -> dict[str, Any]:
    """Writes the drafter's folder after the last step, and takes the checkpoint away.

    Returns:
        The content of run_info.json.
    """
    seconds = time.perf_counter() - run.started
    kept_step, measures = _take_best(run)
    info = run_info(run, kept_step, measures, seconds=seconds)
    if run.ranks.is_first:
        _plot(run, info)
        export(run.inputs.output, run.module, info, run.log)
        remove_checkpoint(run.inputs.output)
    run.ranks.wait()
    return info


def _plot(run: Run, info: dict[str, Any]) -> None:
    """Draws the run, before what marks it finished; a matplotlib that fails costs the plot alone."""
    try:
        if not write_plot(run.inputs.output / PLOT_FILE, lambda pyplot: plot(run.log, info, pyplot)):
            run.inputs.say("No plot, for want of matplotlib.")
    except OSError:  # no room for it, nor for the drafter
        raise
    except Exception as error:  # of any kind where an installation is broken
        run.inputs.say(f"No plot: {type(error).__name__}: {error}")


def _save(run: Run) -> None:
    """Writes a checkpoint; on a slow disk the next ones are left out until it has cost but a share of the time."""
    if run.ranks.is_first:
        began = time.perf_counter()
        save_checkpoint(run.inputs.output, run.state())
        ended = time.perf_counter()
        seconds = ended - began
        run.next_save = ended + (seconds / _SHARE_FOR_SAVING if seconds > _SECONDS_TO_SAVE else 0)


def _start(run: Run) -> None:
    """Says what is trained on, lets the target run over what the store lacks, tries a GPU's memory, and starts the
    clock."""
    config, batches = run.config, run.batches
    run.inputs.say("\n".join(map(str, run.sources)))
    if run.ranks.is_first and (num_copies := batches.num_copies()):
        num_rows = sum(len(batch.ids_BL) for batch in batches.held_out())
        run.inputs.say(
            f"{num_copies:,} of {num_rows:,} held-out rows are trained on too, since the data has copies: what "
            "is measured on them is of text seen"
        )
    run.inputs.say(
        f"{batches.num_tokens:,} tokens, seen {config.num_steps / len(batches):.1f} times in {config.num_steps:,} "
        f"steps; target in {run.target.dtype_name}; loss: {run.loss.note}"
    )
    _say_who_waits(run)
    run.target_tokens_per_second = run.states.fill(run.inputs.show_progress)
    if run.first_step == 0 and run.inputs.initial is None:
        set_start(run)
    if run.target.device.type != "cpu":
        check_memory(run)
    if run.first_step == 0 and run.inputs.initial is not None:
        measures = _measure_checkpoint(run, -1)  # of the drafter that was given, which training may make worse
        if config.keep == "best":
            _keep_if_best(run, 0, measures)
    run.started = time.perf_counter()


def _say_who_waits(run: Run) -> None:
    """Rows are what processes share: one without any waits for the others."""
    share = run.batches.share_with_fewer_rows(run.ranks.size)
    if share > _MANY_STEPS:
        run.inputs.say(
            f"{share:.0%} of the steps have fewer rows than the {run.ranks.size} processes, some of which wait: a "
            "larger batch_size keeps all busy"
        )


def _progress_bar(run: Run) -> Any:
    """The steps to do, with a bar that is drawn seldom where standard error is a file."""
    seconds_between_redraws = 1 if sys.stderr.isatty() else 30
    return tqdm(
        range(run.first_step, run.config.num_steps),
        initial=run.first_step,
        total=run.config.num_steps,
        unit="step",
        disable=not run.inputs.show_progress,
        mininterval=seconds_between_redraws,
        maxinterval=seconds_between_redraws,
    )


def _show(bar: Any, run: Run, entry: Entry) -> None:
    bar.set_postfix(
        loss=f"{entry.loss:.3f}",
        agreement=f"{entry.agreement_per_position[0]:.2f}",
        tokens_per_s=f"{_tokens_per_second(run):.0f}",
        refresh=False,
    )


def _tokens_per_second(run: Run) -> float:
    """Of the last steps alone: the first ones wait for compilers and caches."""
    return sum(num_tokens for num_tokens, _ in run.recent) / sum(seconds for _, seconds in run.recent)


def loss_and_gradient(run: Run, index: int, batch: Batch, batch_index: int) -> Tensor:
    """The gradient of a batch's loss in the module's parameters, clipped. Nothing waits for the device.

    Every process computes some of the batch's parts.

    Returns:
        The gradient's norm before it was clipped, the loss over the draft steps by their weights, and the agreement at
        each step, [2 + K].
    """
    num_steps, device = run.config.steps_unrolled_at(index), run.target.device
    weights_K = to_device(torch.tensor(run.config.step_weights(num_steps)), device)
    total_K = run.loss.counts(batch, num_steps).clamp(min=1)
    sums_2K = torch.zeros(2, num_steps, device=device)
    for part in run.ranks.mine(batch.parts(run.num_parts)):
        rows = batch.rows(part)
        share_K = to_device(run.loss.counts(rows, num_steps) / total_K, device)
        states = run.states(batch_index, part)
        result = run.compare(run.module, run.loss, rows, states, num_steps, run.inputs.recompute)
        (result.loss_K * share_K * weights_K).sum().backward()
        sums_2K += torch.stack((result.loss_K.detach(), result.agreement_K)) * share_K
    run.ranks.add(sums_2K)
    run.ranks.add_gradients(run.module.parameters())
    loss_K, agreement_K = sums_2K
    return torch.cat((clip_gradient(run.module)[None], (loss_K * weights_K).sum()[None], agreement_K))


@contextmanager
def _memory_is_enough(run: Run, index: int, batch: Batch, when: str) -> Iterator[None]:
    """Says in one line what to do where it is not."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        where = "GPU memory" if is_out_of_gpu_memory(error) else "memory"
        raise ValueError(
            f"out of {where} {when}, {run.config.steps_unrolled_at(index)} draft steps over "
            f"{batch.ids_BL.numel():,} tokens: the same command goes on where more is free, or with more parts of a "
            "batch (accumulate); or give a smaller batch_size or sequence_length, and another output"
        ) from error


def _check_number(run: Run, index: int, name: str, value: float) -> None:
    """Ends the run before what is no number reaches the module, or a checkpoint."""
    if math.isfinite(value):
        return
    raise ValueError(
        f"the {name} of step {index + 1} is {value}. The same command goes on from the last checkpoint, which is as it "
        f"was; if it ends at this step again, lower the learning rate (now {run.config.peak_learning_rate:g}), with "
        "another output"
    )


def _measure(run: Run, batches: Sequence[Batch]) -> HeldOut:
    """The held-out measures of the module as it is."""
    return held_out(run.module, run.loss, batches, run.states.hidden, run.config, run.ranks, run.num_parts)


def _measure_checkpoint(run: Run, index: int) -> HeldOut:
    """The held-out measures after a step, which are said."""
    batches = run.held_out_batches(is_last=run.config.is_last(index))
    with _memory_is_enough(run, index, _largest(run, batches), f"after step {index + 1}, at the held-out rows"):
        measures = _measure(run, batches)
    _check_number(run, index, "held-out loss", measures.loss)
    agreement = " ".join(f"{share:.3f}" for share in measures.agreement_per_position)
    run.inputs.say(
        f"step {index + 1}: held-out loss {measures.loss:.4f}, agreement {agreement}, acceptance length "
        f"{measures.length_text} at k = {NUM_SPECULATIVE_TOKENS}, over {measures.positions:,} positions"
    )
    return measures


def _keep_if_best(run: Run, step: int, measures: HeldOut) -> None:
    """Keeps the module if none before was better on the rows that every checkpoint measures."""
    if step == run.config.num_steps:
        measures = _measure(run, run.held_out_batches(is_last=False))
    length = measures.acceptance_length or 1.0
    if run.best is None or length >= run.best.acceptance_length:
        module = {name: tensor.clone() for name, tensor in run.module.state_dict().items()}
        run.best = Best(step=step, acceptance_length=length, module=module)


def _take_best(run: Run) -> tuple[int, HeldOut]:
    """Puts the best module in place of the last one, where that is wanted: the step it is of, and its measures."""
    last = run.log[-1]
    assert last.held_out is not None
    if run.best is None or run.best.step == last.step:
        return last.step, last.held_out
    run.module.load_state_dict(run.best.module)
    return run.best.step, _measure(run, run.held_out_batches(is_last=True))
