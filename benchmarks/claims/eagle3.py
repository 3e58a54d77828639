"""The peer of the claims study: EAGLE-3 as speculators defines it, trained on the study's own batches.

Module, start, loss, optimizers, schedule and defaults are those of `speculators train --speculator-type eagle3`, 0.9;
the loop is its `Trainer.train_epoch`, which wants an accelerator and a vLLM that sends hidden states, without these and
without checkpoints. EAGLE-3 reads three layers of the target where an MTP module reads the last one, and speculators
unrolls all draft steps from the start.
"""

# Shapes: B rows, S text positions of a row, N of them in a call, D hidden size, V vocabulary, J draft vocabulary.

import importlib.util
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from vllm_mtp.benchmarks.harness.method import Method
from vllm_mtp.common.errors import InputError
from vllm_mtp.training.data.batches import Batch, Batches
from vllm_mtp.training.frozen.target import FrozenTarget

REQUIREMENTS = ("speculators==0.9.0", "hs-connectors==0.9.0")
"""To be installed without their dependencies, which vLLM has and of which torchvision and torchaudio are not needed."""
_MAX_TOKENS = 512
"""Positions of a call, of whole rows: attention there is dense over all of them."""
Call = dict[str, Tensor]
"""What the module is called with: [1, N] and [1, N, D] tensors."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Eagle3Settings:
    """What the study changes of speculators' defaults."""

    num_steps_unrolled: int
    muon_learning_rate: float = 1e-3
    """Of Muon on matrices; AdamW on the rest has 0.001."""


class Eagle3Run(NamedTuple):
    """How a training went."""

    seconds: float
    """Of the steps, the target's part left out."""
    losses: list[float]
    """KL of every step, summed over the draft steps."""


def check(engine: str, architecture: str) -> None:
    """Finds what is missing before anything is trained.

    Args:
        engine: that acceptance is to be measured in.
        architecture: the target's, as its config.json names it.

    Raises:
        ValueError: without speculators, for an engine other than vLLM, or a target whose class in vLLM does not give a
            drafter the states of other layers than the last.
    """
    if engine != "vllm":
        raise InputError("engine", f"expected vllm, which alone drafts with EAGLE-3, got {engine}")
    if importlib.util.find_spec("speculators") is None or importlib.util.find_spec("hs_connectors") is None:
        command = f"pip install --no-deps {' '.join(REQUIREMENTS)}"
        raise InputError("claims", f"expected {REQUIREMENTS[0]} for eagle3, which is not installed ({command})")

    from vllm import ModelRegistry
    from vllm.model_executor.models.interfaces import supports_eagle3

    found = ModelRegistry.models.get(architecture)
    if found is None or not supports_eagle3(found.load_model_cls()):
        reason = "whose class in vLLM does not support EAGLE-3. Leave eagle3 and eagle3-rate out"
        raise InputError("target", f"expected a target that vLLM drafts for with EAGLE-3, got {architecture}, {reason}")


def eagle3(draft: Path, num_speculative_tokens: int) -> Method:
    """How vLLM drafts with the trained folder; for sampled requests draft tokens are sampled, as of MTP drafters."""
    fields = (("model", str(draft)), ("draft_sample_method", "probabilistic"))
    return Method(name="eagle3", num_speculative_tokens=num_speculative_tokens, fields=fields)


def train_eagle3(
    settings: Eagle3Settings,
    target: FrozenTarget,
    path: str,
    batches: Batches,
    num_steps: int,
    *,
    draft_ids_J: Tensor | None,
    seed: int,
    output: Path,
) -> Eagle3Run:
    """Trains the module and writes its folder; a killed one begins again.

    Args:
        settings: what is not speculators' default.
        target: the frozen target, a Llama or a Qwen3.
        path: its folder, from which speculators reads embedding, head and final norm.
        batches: what is trained on; a step takes the batch that an MTP drafter's would.
        num_steps: steps of the optimizer.
        draft_ids_J: the draft vocabulary; None: all of the target's.
        seed: of the weights.
        output: folder of the drafter.

    Raises:
        ValueError: of speculators, for a target whose layers or sizes it cannot use.
    """
    from speculators.models.eagle3.core import Eagle3DraftModel
    from speculators.train.optimizers import build_optimizers
    from speculators.train.trainer import TrainerConfig
    from transformers import get_linear_schedule_with_warmup

    torch.manual_seed(seed)
    module = _module(settings, path, target.vocab_size, draft_ids_J).to(target.device)
    config = TrainerConfig(
        lr=1e-3, num_epochs=1, save_path=str(output), optimizer="muon", muon_lr=settings.muon_learning_rate
    )
    optimizers = build_optimizers(module, config)
    schedules = [get_linear_schedule_with_warmup(one, num_steps // 100, num_steps) for one in optimizers]
    how, _ = Eagle3DraftModel.get_trainer_kwargs(
        loss_fn="kl_div", loss_implementation="eager", ttt_steps=settings.num_steps_unrolled, ttt_step_loss_decay=1.0
    )
    kept: dict[int, Sequence[Call]] = {}
    seconds, losses = 0.0, []
    bar = tqdm(range(num_steps), unit="step", mininterval=30)
    for step in bar:
        index = batches.index(step)
        if index not in kept:
            kept[index] = list(_calls(target, batches[index], module.target_layer_ids))
        started = time.perf_counter()
        losses.append(_step(module, kept[index], how, target.dtype))
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        for one in (*optimizers, *schedules):
            one.step()
        module.zero_grad()
        seconds += time.perf_counter() - started
        bar.set_postfix(loss=f"{losses[-1]:.3f}", refresh=False)
    module.save_pretrained(output)
    return Eagle3Run(seconds, losses)


def _module(settings: Eagle3Settings, path: str, vocab_size: int, draft_ids_J: Tensor | None) -> Any:
    """speculators' own module at its start; dense attention, which needs no compiler."""
    from speculators.models.eagle3.core import Eagle3DraftModel
    from speculators.train.cli import create_transformer_layer_config

    layer = create_transformer_layer_config(path, 1, "llama", None, 2048, [0])
    is_drafted_V = offsets_J = None
    if draft_ids_J is not None:
        is_drafted_V = torch.zeros(vocab_size, dtype=torch.bool)
        is_drafted_V[draft_ids_J] = True
        offsets_J = draft_ids_J - torch.arange(len(draft_ids_J))
    return Eagle3DraftModel.from_training_args(
        layer,
        t2d=is_drafted_V,
        d2t=offsets_J,
        draft_vocab_size=vocab_size if draft_ids_J is None else len(draft_ids_J),
        norm_before_residual=True,
        norm_before_fc=True,
        norm_output=True,
        ttt_steps=settings.num_steps_unrolled,
        verifier_name_or_path=path,
        draft_attn_impl="eager",
    ).train()


def _step(module: Any, calls: Sequence[Call], how: dict[str, Any], dtype: torch.dtype) -> float:
    """Gradients of the mean loss over a batch, and the loss, summed over the draft steps."""
    counts = [int(call["loss_mask"].sum()) for call in calls]
    total = 0.0
    for call, count in zip(calls, counts, strict=True):
        if count:
            device = call["input_ids"].device.type
            with torch.autocast(device, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
                _, loss, _ = module(**call, **how)
            share = loss * (count / sum(counts))
            share.backward()
            total += float(share.detach())
    return total


@torch.no_grad()
def _calls(target: FrozenTarget, batch: Batch, layers: Sequence[int]) -> Iterator[Call]:
    """A batch as the module takes it, some whole rows at a time.

    Its first position has the hidden states of the row's first token and the id of the second.
    """
    last: list[Tensor] = []

    def keep(_module: Any, _inputs: Any, output: Any) -> None:
        last.append(output[0] if isinstance(output, tuple) else output)

    hook = target.body.layers[-1].register_forward_hook(keep)  # before the final norm, which the module has too
    try:
        ids_BS = batch.ids_BL[:, :-1].to(target.device)
        output = target.body(input_ids=ids_BS, use_cache=False, output_hidden_states=True)
    finally:
        hook.remove()
    hidden_BSD = torch.cat([output.hidden_states[layer] for layer in layers], dim=-1)
    rows: list[Call] = []
    for row, num_positions in enumerate(batch.text_BS.sum(1).tolist()):
        if num_positions < 2:
            continue
        one = {
            "input_ids": ids_BS[row, 1:num_positions],
            "hidden_states": hidden_BSD[row, : num_positions - 1],
            "verifier_last_hidden_states": last[0][row, 1:num_positions],
            "loss_mask": batch.mask_BS[row, 1:num_positions].to(target.device),
            "document_ids": torch.full((num_positions - 1,), row, device=target.device),
            "position_ids": torch.arange(1, num_positions, device=target.device),
        }
        if sum(len(other["input_ids"]) for other in (*rows, one)) > _MAX_TOKENS and rows:
            yield _joined(rows)
            rows = []
        rows.append(one)
    if rows:
        yield _joined(rows)


def _joined(rows: Sequence[Call]) -> Call:
    return {name: torch.cat([row[name] for row in rows])[None] for name in rows[0]}
