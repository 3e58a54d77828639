"""`vllm-mtp train`: distils an MTP module from a frozen target, resumably."""

# Shapes: B sequences, L window length, T positions, K draft steps, D hidden size.

import contextlib
import hashlib
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from vllm_mtp.config import MTPConfig
from vllm_mtp.module import MTPModule
from vllm_mtp.training.checkpoint import (
    check_same_run,
    load_checkpoint,
    load_run_info,
    remove_checkpoint,
    save_checkpoint,
)
from vllm_mtp.training.config import NUM_HELD_OUT_STEPS, TrainConfig
from vllm_mtp.training.data import PackedWindows, check_files, token_stream
from vllm_mtp.training.export import export, run_info
from vllm_mtp.training.hidden_states import HiddenStates
from vllm_mtp.training.objective import Distillation, distillation
from vllm_mtp.training.target import FrozenTarget
from vllm_mtp.training.unroll import unroll

_GRADIENT_NORM = 1.0


def train(
    config: TrainConfig,
    *,
    target: str,
    data: Sequence[Path],
    output: Path,
    device: str = "auto",
    argv: Sequence[str] = (),
    show_progress: bool = True,
) -> dict[str, Any]:
    """Distils a drafter and writes it to a folder that vLLM can serve from.

    Called again, it goes on from the last checkpoint; when the run is finished, it returns what it returned then.

    Args:
        config: what decides the outcome.
        target: folder or Hub id of the frozen target.
        data: text or JSONL files.
        output: the drafter's folder.
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
    frozen = FrozenTarget.load(target, device=device, dtype=earlier["dtype"] if earlier else config.dtype)
    fingerprint = frozen.fingerprint()
    window_length = config.sequence_length + 1
    stream_N = token_stream(data, frozen.tokenizer, max_tokens=_tokens_to_read(config))
    data_sha256 = hashlib.sha256(stream_N.numpy().tobytes()).hexdigest()
    if earlier is not None:
        check_same_run(earlier, output, config, fingerprint, data_sha256)
    if finished is not None:
        remove_checkpoint(output)
        if show_progress:
            tqdm.write(f"{output} holds this run, finished: nothing to do")
        return finished
    windows = PackedWindows(stream_N, window_length, config.batch_size, config.seed)
    run = {"config": asdict(config), "target": fingerprint, "data_sha256": data_sha256, "dtype": frozen.dtype_name}

    torch.manual_seed(config.seed)
    draft_config = draft_config_for(frozen.config, config, fingerprint)
    module = MTPModule(draft_config)
    initialise(module)
    module.to(frozen.device)
    optimizers = make_optimizers(module, config)
    first_step, log = 0, []
    if state is not None:
        module.load_state_dict(state["module"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        first_step, log = state["step"], state["log"]

    hidden_states = HiddenStates(frozen, windows, config.num_steps)
    started = time.perf_counter()
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
        index, num_steps = windows.batch_index(step), config.steps_unrolled_at(step)
        result = compare(module, frozen, windows.batch(index), hidden_states(index), num_steps, config.objective)
        loss = (result.loss_K * torch.tensor(config.step_weights(num_steps), device=frozen.device)).sum()
        entry: dict[str, Any] = {"step": step + 1, "loss": float(loss.detach())}
        if not math.isfinite(entry["loss"]):
            raise ValueError(f"the loss of step {step + 1} is {entry['loss']}: lower --learning-rate")
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), _GRADIENT_NORM)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * config.learning_rate_factor(step)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        entry["agreement_per_position"] = [round(value, 4) for value in result.agreement_K.tolist()]
        if (step + 1) % config.checkpoint_every == 0 or step + 1 == config.num_steps:
            entry["held_out"] = held_out(module, frozen, windows.held_out_WL, config)
            agreement = " ".join(f"{value:.3f}" for value in entry["held_out"]["agreement_per_position"])
            if show_progress:
                tqdm.write(f"step {step + 1}: held-out loss {entry['held_out']['loss']:.4f}, agreement {agreement}")
        log.append(entry)
        if "held_out" in entry:
            save_checkpoint(output, module, optimizers, step + 1, log, run)
        rate = (step + 1 - first_step) * config.batch_size * config.sequence_length / (time.perf_counter() - started)
        first = entry["agreement_per_position"][0]
        bar.set_postfix(
            loss=f"{entry['loss']:.3f}", agreement=f"{first:.2f}", tokens_per_s=f"{rate:.0f}", refresh=False
        )

    seconds = time.perf_counter() - started
    info = run_info(
        config,
        frozen,
        argv=argv,
        log=log,
        data_tokens=len(stream_N),
        data_sha256=data_sha256,
        seconds=seconds,
        tokens_per_second=(config.num_steps - first_step) * config.batch_size * config.sequence_length / seconds,
    )
    export(output, module, draft_config, info)
    remove_checkpoint(output)
    return info


def _tokens_to_read(config: TrainConfig) -> int:
    """What is trained on, and what PackedWindows holds out."""
    return int(1.1 * (config.data_tokens or config.tokens)) + 40 * (config.sequence_length + 1)


def compare(
    module: MTPModule,
    target: FrozenTarget,
    ids_BL: Tensor,
    hidden_BTD: Tensor,
    num_steps: int,
    objective: str = "kl",
) -> Distillation:
    """num_steps chained draft steps of the module on packed windows, scored against the target's hidden states."""
    ids_BL = ids_BL.to(target.device)
    num_positions = hidden_BTD.size(1) - num_steps
    embeddings_KBTD = torch.stack(
        [target.head.embed(ids_BL[:, k : k + num_positions]) for k in range(1, num_steps + 1)]
    )
    with autocast(target):
        states_KBTD = unroll(module, hidden_BTD[:, :num_positions].float(), embeddings_KBTD.float())
    return distillation(states_KBTD, hidden_BTD, ids_BL[:, 1:], target.head, objective=objective)


def autocast(target: FrozenTarget) -> contextlib.AbstractContextManager[Any]:
    """bfloat16 products in the module where the target runs in bfloat16; its weights stay float32."""
    if target.dtype == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(target.device.type, target.dtype)


@torch.no_grad()
def held_out(module: MTPModule, target: FrozenTarget, windows_WL: Tensor, config: TrainConfig) -> dict[str, Any]:
    """On held-out text: loss over the trained draft steps, agreement and overlap over NUM_HELD_OUT_STEPS at least."""
    num_steps = max(NUM_HELD_OUT_STEPS, config.num_steps_unrolled)
    parts = [
        compare(module, target, ids_BL, target.hidden_states(ids_BL[:, :-1]), num_steps, config.objective)
        for ids_BL in windows_WL.split(config.batch_size)
    ]
    sizes = torch.tensor([len(ids_BL) for ids_BL in windows_WL.split(config.batch_size)], device=target.device)
    loss_K, agreement_K, overlap_K = (
        (torch.stack(values) * sizes[:, None]).sum(0) / sizes.sum() for values in zip(*parts, strict=True)
    )
    weights_K = torch.tensor(config.step_weights(config.num_steps_unrolled), device=target.device)
    return {
        "loss": round(float((loss_K[: len(weights_K)] * weights_K).sum()), 5),
        "agreement_per_position": [round(value, 4) for value in agreement_K.tolist()],
        "overlap_per_position": [round(value, 4) for value in overlap_K.tolist()],
    }


def draft_config_for(target: Any, config: TrainConfig, fingerprint: dict[str, Any]) -> MTPConfig:
    """The module's shape: the target's own layer, unless the config says otherwise.

    Raises:
        ValueError: if the resulting shape breaks the checkpoint contract, or the target's context is too short.
    """
    max_length = getattr(target, "max_position_embeddings", None)
    if max_length is not None and config.sequence_length > max_length:
        raise ValueError(f"sequence_length: expected at most the target's {max_length}, got {config.sequence_length}")
    heads = config.num_attention_heads or target.num_attention_heads
    kv_heads = config.num_key_value_heads or getattr(target, "num_key_value_heads", None) or heads
    head_dim = getattr(target, "head_dim", None) or target.hidden_size // target.num_attention_heads
    rope = getattr(target, "rope_parameters", None) or {}
    theta = rope.get("rope_theta")
    fields = {
        "hidden_size": target.hidden_size,
        "intermediate_size": config.intermediate_size or getattr(target, "intermediate_size", 4 * target.hidden_size),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "rms_norm_eps": getattr(target, "rms_norm_eps", 1e-6),
        "vocab_size": target.vocab_size,
        "max_position_embeddings": max_length,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": float(theta) if isinstance(theta, int | float) else 10000.0,
        },
        "qk_norm": config.qk_norm,
        "target_fingerprint": fingerprint,
    }
    draft: MTPConfig = MTPConfig.from_dict(fields)
    return draft


@torch.no_grad()
def initialise(module: MTPModule) -> None:
    """Normal weights of deviation fan-in^-1/2, half of that for projections into the residual stream; unit norms."""
    for name, parameter in module.named_parameters():
        if parameter.ndim == 2:
            scale = 0.5 if name.endswith(("o_proj.weight", "down_proj.weight")) else 1.0
            nn.init.normal_(parameter, std=scale * parameter.size(1) ** -0.5)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)


def make_optimizers(module: MTPModule, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """Muon on matrices with AdamW on the rest, or AdamW on everything."""
    matrices = [p for p in module.parameters() if p.ndim == 2]
    rest = [p for p in module.parameters() if p.ndim != 2]
    peak = config.peak_learning_rate
    if config.optimizer == "adamw":
        optimizers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW([*matrices, *rest], lr=peak, betas=(0.9, 0.95), weight_decay=0.0)
        ]
    else:
        optimizers = [
            torch.optim.Muon(matrices, lr=peak, weight_decay=0.0, adjust_lr_fn="original"),
            torch.optim.AdamW(rest, lr=peak / 5, betas=(0.9, 0.95), weight_decay=0.0),
        ]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
    return optimizers
