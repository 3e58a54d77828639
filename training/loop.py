"""`vllm-mtp train`: distils an MTP module from a frozen target, resumably."""

# Shapes: L tokens of a row, K draft steps, J draft vocabulary.

import hashlib
import math
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from vllm_mtp.common.errors import InputError
from vllm_mtp.contract.tensors import WEIGHTS_FILE
from vllm_mtp.module.mtp import MTPModule
from vllm_mtp.training.checkpoint import (
    check_same_run,
    load_checkpoint,
    load_run_info,
    remove_checkpoint,
    save_checkpoint,
)
from vllm_mtp.training.config import TrainConfig
from vllm_mtp.training.data.batches import Batches
from vllm_mtp.training.data.draft_vocab import load_draft_vocab
from vllm_mtp.training.data.sources import check_files, read_sources
from vllm_mtp.training.export import export, run_info
from vllm_mtp.training.initial import draft_config_for, initialise, load_initial
from vllm_mtp.training.loss.loss import Loss, compare, held_out, tokens_at_checkpoints
from vllm_mtp.training.optimizers import make_optimizers
from vllm_mtp.training.target.frozen import FrozenTarget
from vllm_mtp.training.target.states import TargetStates

_GRADIENT_NORM = 1.0


def train(
    config: TrainConfig,
    *,
    target: str,
    data: Sequence[Path],
    output: Path,
    draft_vocab: Path | None = None,
    initial: Path | None = None,
    store: Path | None = None,
    target_name: str = "",
    device: str = "auto",
    argv: Sequence[str] = (),
    show_progress: bool = True,
) -> dict[str, Any]:
    """Distils a drafter and writes it to a folder that vLLM can serve from.

    Called again, it goes on from the last checkpoint; when the run is finished, it returns what it returned then.

    Args:
        config: what decides the outcome.
        target: folder or Hub id of the frozen target.
        data: text or JSONL files, and folders of `vllm-mtp generate`.
        output: the drafter's folder.
        draft_vocab: file of `vllm-mtp vocab`; None drafts over the whole vocabulary.
        initial: folder of a drafter to go on from, instead of random weights.
        store: folder that keeps what the target says of each batch (target/states.py).
        target_name: what the drafter's card calls the target; empty: its Hub id or its folder's name.
        device: "auto", "cpu" or "cuda".
        argv: the command, for run_info.json.
        show_progress: draw a progress bar on standard error.

    Returns:
        The content of run_info.json.

    Raises:
        ValueError: for a target, data or output that cannot be used, before any training.
    """
    check_files(data)
    finished = load_run_info(output)
    state = load_checkpoint(output) if finished is None else None
    earlier = finished or state
    # The probe behind "auto" may decide otherwise next time: a run keeps the dtype that it began with.
    dtype = earlier["dtype"] if earlier else config.dtype
    frozen = FrozenTarget.load(target, name=target_name, device=device, dtype=dtype)
    fingerprint = frozen.fingerprint()
    draft_ids_J = (
        None
        if draft_vocab is None
        else load_draft_vocab(draft_vocab, frozen.vocab_size, fingerprint["tokenizer_sha256"])
    )
    draft_config = draft_config_for(frozen.config, config, fingerprint, draft_ids_J)
    sources = read_sources(
        data,
        frozen.tokenizer,
        config.sequence_length + 1,
        max_tokens=_tokens_to_read(config),
        vocab_size=frozen.vocab_size,
        answers_only=config.answers_only,
    )
    batches = Batches([source.rows for source in sources], config.batch_size * config.sequence_length, config.seed)
    run = {
        "config": asdict(config),
        "target": fingerprint,
        "target_weights_sha256": frozen.weights_sha256,
        "data_sha256": _sha256(row.ids_L for source in sources for row in source.rows),
        "draft_vocab_sha256": None if draft_ids_J is None else _sha256([draft_ids_J]),
        "draft_vocab_size": draft_config.draft_vocab_size,
        "initial_sha256": None if initial is None else _sha256_of_file(initial / WEIGHTS_FILE),
        "dtype": frozen.dtype_name,
    }
    if earlier is not None:
        check_same_run(earlier, output, config, run)
    if finished is not None:
        remove_checkpoint(output)
        if show_progress:
            tqdm.write(f"{output} holds this run, finished: nothing to do")
        return finished

    torch.manual_seed(config.seed)
    module = MTPModule(draft_config)
    initialise(module, draft_ids_J)
    if initial is not None:
        load_initial(module, initial)
    module.to(frozen.device)
    optimizers = make_optimizers(module, config)
    first_step, log = 0, []
    if state is not None:
        module.load_state_dict(state["module"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        first_step, log = state["step"], state["log"]
        if show_progress:
            tqdm.write(f"{output} goes on after step {first_step}")

    loss = Loss(frozen, draft_ids_J, config)
    if show_progress:
        tqdm.write("\n".join(map(str, sources)))
        tqdm.write(
            f"{batches.num_tokens:,} tokens, seen {config.num_steps / len(batches):.1f} times in {config.num_steps:,} "
            f"steps; target in {frozen.dtype_name}; loss: {loss.note}"
        )
    states = TargetStates(
        frozen,
        batches,
        config.num_steps,
        head=loss.head,
        with_teacher=loss.uses_mean_embedding,
        store=store,
        draft_ids_J=draft_ids_J,
    )
    target_tokens_per_second = states.fill(show_progress)
    started, num_tokens = time.perf_counter(), 0
    seconds_between_redraws = 1 if sys.stderr.isatty() else 30
    bar = tqdm(
        range(first_step, config.num_steps),
        initial=first_step,
        total=config.num_steps,
        unit="step",
        disable=not show_progress,
        mininterval=seconds_between_redraws,
        maxinterval=seconds_between_redraws,
    )
    for step in bar:
        index, num_steps = batches.index(step), config.steps_unrolled_at(step)
        batch = batches[index]
        try:
            result = compare(module, loss, batch, states(index), num_steps)
            value = (result.loss_K * torch.tensor(config.step_weights(num_steps), device=frozen.device)).sum()
            entry: dict[str, Any] = {"step": step + 1, "loss": float(value.detach())}
            if not math.isfinite(entry["loss"]):
                raise ValueError(f"the loss of step {step + 1} is {entry['loss']}: lower the learning rate")
            value.backward()
        except torch.OutOfMemoryError as error:
            raise ValueError(
                f"out of GPU memory at step {step + 1}, {num_steps} draft steps over {batch.ids_BL.numel():,} tokens: "
                "give a smaller batch_size or sequence_length, and another output"
            ) from error
        nn.utils.clip_grad_norm_(module.parameters(), _GRADIENT_NORM)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * config.learning_rate_factor(step)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        entry["agreement_per_position"] = [round(share, 4) for share in result.agreement_K.tolist()]
        if (step + 1) % config.checkpoint_every == 0 or step + 1 == config.num_steps:
            # The figures that are kept are of everything; those on the way need not be.
            max_tokens = tokens_at_checkpoints(loss, config) if step + 1 < config.num_steps else None
            entry["held_out"] = held_out(module, loss, batches, config, max_tokens=max_tokens)
            agreement = " ".join(f"{share:.3f}" for share in entry["held_out"]["agreement_per_position"])
            if show_progress:
                tqdm.write(
                    f"step {step + 1}: held-out loss {entry['held_out']['loss']:.4f}, agreement {agreement} "
                    f"over {entry['held_out']['positions']:,} positions"
                )
        log.append(entry)
        if "held_out" in entry:
            save_checkpoint(output, module, optimizers, step + 1, log, run)
        num_tokens += batch.num_tokens
        rate = num_tokens / (time.perf_counter() - started)
        first = entry["agreement_per_position"][0]
        bar.set_postfix(
            loss=f"{entry['loss']:.3f}", agreement=f"{first:.2f}", tokens_per_s=f"{rate:.0f}", refresh=False
        )

    seconds = time.perf_counter() - started
    info = run_info(
        run,
        frozen,
        argv=argv,
        log=log,
        loss=loss.note,
        data_tokens=sum(len(row.ids_L) for source in sources for row in source.rows),
        tokens_seen=batches.tokens_seen(config.num_steps),
        seconds=seconds,
        tokens_per_second={"target": target_tokens_per_second, "drafter": num_tokens / seconds},
    )
    export(output, module, draft_config, info)
    remove_checkpoint(output)
    return info


def _tokens_to_read(config: TrainConfig) -> int:
    """What is trained on, and what Batches holds out."""
    return int(1.1 * (config.data_tokens or config.tokens)) + 40 * (config.sequence_length + 1)


def _sha256(tensors: Iterable[Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.long().numpy().tobytes())
    return digest.hexdigest()


def _sha256_of_file(path: Path) -> str:
    if not path.is_file():
        raise InputError("initial", f"expected a drafter's folder, found no {path}")
    return hashlib.sha256(path.read_bytes()).hexdigest()
