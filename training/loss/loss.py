"""What a training step minimises: draft steps of the module on a batch, scored on the target's head."""

# Shapes: B sequences, S tokens that the target sees, T = S - K positions, K draft steps, D hidden size, J draft
# vocabulary, V vocabulary, N teacher rows.

import contextlib
import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from vllm_mtp.kernels import ops, reference
from vllm_mtp.kernels.common.registration import uses_triton
from vllm_mtp.kernels.common.tables import loss_chunk_size
from vllm_mtp.module.mtp import MTPModule
from vllm_mtp.training.config import NUM_HELD_OUT_STEPS, NUM_SPECULATIVE_TOKENS, TrainConfig
from vllm_mtp.training.data.batches import Batch
from vllm_mtp.training.frozen.reading import BatchStates
from vllm_mtp.training.frozen.target import FrozenTarget
from vllm_mtp.training.loss.acceptance import acceptance_length, accepted_drafts, tokens_and_rounds
from vllm_mtp.training.loss.compiled import faster_of_eager_and_compiled
from vllm_mtp.training.loss.mean_embedding import mean_embedding_kl
from vllm_mtp.training.loss.objective import Distillation, Places, WholeHead, distillation, places
from vllm_mtp.training.loss.unroll import unroll
from vllm_mtp.training.ranks import Ranks
from vllm_mtp.training.record import HeldOut
from vllm_mtp.training.transfer import to_device

_MAX_LOGITS_AT_CHECKPOINTS = 2**31
"""22 to 38 seconds of one core (docs/log.md)."""
_DRAFTED_AT_ONCE = 1024
"""Positions whose logits exist at a time where tokens are drafted."""


class Loss:
    """The objective of a run on its target's head, in the cheapest form that is exact; `note` says which."""

    def __init__(self, target: FrozenTarget, draft_ids_J: Tensor | None, config: TrainConfig) -> None:
        self.target, self.objective, self.step_tokens = target, config.objective, config.step_tokens
        self.head = target.head.cut(draft_ids_J)
        self.uses_mean_embedding = config.objective == "kl" and target.head.transform.soft_cap is None
        self._row_of_id_V: Tensor | None = None
        self._whole: WholeHead | None = None
        if draft_ids_J is not None:
            self._whole = WholeHead(target.head, draft_ids_J.to(target.device))
            self._row_of_id_V = torch.full((target.vocab_size,), -1)
            self._row_of_id_V[draft_ids_J.cpu()] = torch.arange(len(draft_ids_J))
        self._linear_kl: Callable[..., ops.LinearKL] = ops.linear_kl
        self.note = "plain"
        if self.uses_mean_embedding:
            self.note = f"mean embeddings, {self._choose_linear_kl(config)}"

    def _choose_linear_kl(self, config: TrainConfig) -> str:
        """Kernels on a GPU; elsewhere their plain twin, its chunks as written or compiled, whichever is faster."""
        weight_JD = self.head.head_VD
        if uses_triton(weight_JD.device.type):
            return "Triton"
        chunk_size = loss_chunk_size(weight_JD.device, weight_JD.size(1), mean_embedding=True)
        example = weight_JD.new_ones(chunk_size, weight_JD.size(1))
        function, how = faster_of_eager_and_compiled(
            reference.softmax_chunk,
            (example, weight_JD, self.head.bias_V, self.head.transform.scale),
            num_calls=config.tokens // chunk_size,
        )
        self._linear_kl = functools.partial(reference.linear_kl_by_chunks(function), chunk_size=chunk_size)
        return f"{how} for {chunk_size} positions"

    def __call__(self, states_KBTD: Tensor, where: Places, states: BatchStates) -> Distillation:
        """The objective at places on the device."""
        if states.teacher is None:
            return distillation(states_KBTD, states.hidden_BSD, where, self.head, objective=self.objective)
        linear_kl = ops.linear_kl if torch.compiler.is_compiling() else self._linear_kl
        return mean_embedding_kl(states_KBTD, where, states.teacher, self.head, linear_kl=linear_kl)

    @torch.no_grad()
    def drafted(self, states_BTD: Tensor) -> Tensor:
        """Target ids of the tokens that serving drafts from the module's outputs without sampling, [B, T]."""
        rows = ops.HeadRows(self.head.head_VD, bias_V=self.head.bias_V)
        parts = states_BTD.flatten(0, 1).to(self.head.head_VD.dtype).split(_DRAFTED_AT_ONCE)
        row_N = torch.cat([ops.draft_head(part_ND, rows) for part_ND in parts])
        ids_N = row_N if self._whole is None else self._whole.draft_ids_J[row_N]
        return ids_N.view(states_BTD.shape[:2])

    def places(self, batch: Batch, num_steps: int) -> Places:
        """Where num_steps draft steps on a batch are scored, on the host."""
        return places(batch.mask_BS, num_steps, self._labels(batch))

    def counts(self, batch: Batch, num_steps: int) -> Tensor:
        """How many positions each of num_steps draft steps is scored at, [K]; `places` has which."""
        mask_BS, labels_BS = batch.mask_BS, self._labels(batch)
        if labels_BS is not None:
            mask_BS = mask_BS & (labels_BS >= 0)
        num_positions = mask_BS.size(1) - num_steps
        return torch.stack([mask_BS[:, k : k + num_positions].sum() for k in range(1, num_steps + 1)]).float()

    def _labels(self, batch: Batch) -> Tensor | None:
        """For "lm": rows of the head, -1 for what a draft vocabulary does not have."""
        if self.objective != "lm":
            return None
        labels_BS = batch.ids_BL[:, 1:]
        return labels_BS if self._row_of_id_V is None else self._row_of_id_V[labels_BS]

    def measured(self, states_KBTD: Tensor, batch: Batch, hidden_BSD: Tensor) -> Distillation:
        """The objective, agreement and overlap with the target's whole vocabulary, and the agreement of every state."""
        return distillation(
            states_KBTD,
            hidden_BSD,
            self.places(batch, len(states_KBTD)).to(states_KBTD.device),
            self.head,
            objective=self.objective,
            whole=self._whole,
            by_state=True,
        )


def compare(
    module: MTPModule, loss: Loss, batch: Batch, states: BatchStates, num_steps: int, recompute: bool = False
) -> Distillation:
    """num_steps chained draft steps of the module on a batch, scored against the target."""
    where = loss.places(batch, num_steps).to(loss.target.device)
    return score(module, loss, batch.ids_BL, states, where, num_steps, recompute)


def score(
    module: MTPModule,
    loss: Loss,
    ids_BL: Tensor,
    states: BatchStates,
    where: Places,
    num_steps: int,
    recompute: bool = False,
) -> Distillation:
    """`compare` at places on the device, without a question that the host would have to answer."""
    drafted = loss.drafted if loss.step_tokens == "drafted" else None
    states_KBTD = draft(module, loss.target, ids_BL, states.hidden_BSD, num_steps, drafted, recompute=recompute)
    return loss(states_KBTD, where, states)


def draft(
    module: MTPModule,
    target: FrozenTarget,
    ids_BL: Tensor,
    hidden_BSD: Tensor,
    num_steps: int,
    drafted: Callable[[Tensor], Tensor] | None = None,
    *,
    recompute: bool = False,
) -> Tensor:
    """The module's outputs at num_steps chained draft steps, [K, B, S - K, D].

    Args:
        module, target, ids_BL: what drafts, for what, on which rows.
        hidden_BSD: the target's hidden states of the rows.
        num_steps: K.
        drafted: ids [B, T] that steps after the first are fed with, from the outputs [B, T, D] of the step before;
            None: the text's.
        recompute: as of `unroll`.
    """
    ids_BL = to_device(ids_BL, target.device)
    num_positions = hidden_BSD.size(1) - num_steps

    def embed(step: int, states_BTD: Tensor) -> Tensor:
        ids_BT = ids_BL[:, step : step + num_positions]
        if step > 1 and drafted is not None:
            ids_BT = drafted(states_BTD)
        return target.head.embed(ids_BT).float()

    with autocast(target):
        return unroll(module, hidden_BSD[:, :num_positions].float(), embed, num_steps, recompute=recompute)


def autocast(target: FrozenTarget) -> contextlib.AbstractContextManager[Any]:
    """bfloat16 products in the module where the target runs in bfloat16; its weights stay float32.

    Beside a target in float16 they stay float32: gradients of many positions are below what float16 can hold.
    """
    if target.dtype != torch.bfloat16:
        return contextlib.nullcontext()
    return torch.autocast(target.device.type, target.dtype)


@torch.no_grad()
def held_out(
    module: MTPModule,
    loss: Loss,
    batches: Sequence[Batch],
    hidden_of: Callable[[Batch, slice], Tensor],
    config: TrainConfig,
    ranks: Ranks | None = None,
    num_parts: int = 1,
) -> HeldOut:
    """Loss over the trained draft steps, agreement and overlap over NUM_HELD_OUT_STEPS at least, and the acceptance
    length, on held-out rows.

    All but the loss count against the target's whole vocabulary, whatever the draft vocabulary.

    Args:
        module, loss: what is measured.
        batches: of held-out rows; all their positions are.
        hidden_of: the target's hidden states of some rows of a batch, [B, S, D].
        config: says how many steps were trained, and what each weighs.
        ranks: processes that share the batches.
        num_parts: that a batch is measured in, one after another.
    """
    num_steps = max(NUM_HELD_OUT_STEPS, config.num_steps_unrolled)
    ranks = ranks or Ranks()
    total_K = torch.stack([loss.counts(batch.padded(num_steps), num_steps) for batch in batches]).sum(0).clamp(min=1)
    measures_3K = torch.zeros(3, num_steps, device=loss.target.device)
    ends = list(itertools.accumulate(len(batch.ids_BL) for batch in batches))
    rounds_2N = torch.zeros(2, ends[-1], dtype=torch.int64, device=loss.target.device)
    ended = zip(batches, ends, strict=True)
    parts = [(whole, part, end - len(whole.ids_BL)) for whole, end in ended for part in whole.parts(num_parts)]
    for whole, part, first in ranks.mine(parts):
        # Padded, so that the last positions of a row have all steps too.
        hidden_BSD = functional.pad(hidden_of(whole, part), (0, 0, 0, num_steps))
        batch = whole.rows(part).padded(num_steps)
        states_KBTD = draft(module, loss.target, batch.ids_BL, hidden_BSD, num_steps)
        measured = loss.measured(states_KBTD, batch, hidden_BSD)
        assert measured.overlap_K is not None
        assert measured.agrees_KBT is not None
        found_3K = torch.stack([measured.loss_K, measured.agreement_K, measured.overlap_K])
        measures_3K += found_3K * to_device(loss.counts(batch, num_steps) / total_K, found_3K.device)
        accepted_BT = accepted_drafts(measured.agrees_KBT[:NUM_SPECULATIVE_TOKENS])
        rounds_2N[:, first + part.start : first + part.stop] = tokens_and_rounds(accepted_BT, batch.mask_BS)
    ranks.add(measures_3K)
    ranks.add(rounds_2N)
    length, interval = acceptance_length(rounds_2N) or (None, None)
    loss_K, agreement_K, overlap_K = measures_3K
    weights_K = torch.tensor(config.step_weights(config.num_steps_unrolled), device=loss.target.device)
    return HeldOut(
        loss=round(float((loss_K[: len(weights_K)] * weights_K).sum()), 5),
        agreement_per_position=[round(value, 4) for value in agreement_K.tolist()],
        overlap_per_position=[round(value, 4) for value in overlap_K.tolist()],
        positions=sum(batch.num_tokens for batch in batches),
        acceptance_length=length,
        acceptance_length_95=interval,
    )


def tokens_at_checkpoints(loss: Loss, config: TrainConfig) -> int:
    """Held-out tokens measured at a checkpoint before the last one: on a GPU a twentieth of those that are trained on
    between two of them; on a CPU as many as make _MAX_LOGITS_AT_CHECKPOINTS logits, of the target's head once and of
    the loss's head for teacher and draft steps."""
    if loss.target.device.type != "cpu":
        return config.checkpoint_every * config.batch_size * config.sequence_length // 20
    num_steps = max(NUM_HELD_OUT_STEPS, config.num_steps_unrolled)
    return _MAX_LOGITS_AT_CHECKPOINTS // (loss.target.vocab_size + (1 + num_steps) * loss.head.head_VD.size(0))
