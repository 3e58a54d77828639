"""A step's draft steps and their loss at a handful of shapes, compiled at each of them where that is wanted.

What is compiled is one function of tensors: module, chained draft steps and loss in one graph, in which the kernels are
operators of their own. Not captured as a CUDA graph: its gradients would lie in memory that the next part of a batch
writes to.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from vllm_mtp.common.errors import in_a_line, is_out_of_memory
from vllm_mtp.module.mtp import MTPModule
from vllm_mtp.training.data.batches import Batch
from vllm_mtp.training.frozen.reading import BatchStates
from vllm_mtp.training.loss.loss import Loss, score
from vllm_mtp.training.loss.objective import Distillation
from vllm_mtp.training.loss.shapes import Shape, padded, smallest
from vllm_mtp.training.transfer import to_device

MAX_SHAPES = 6
_MAX_ERROR = 0.2
"""Relative, of a parameter's gradient: in bfloat16 compiled and plain ones are 0.01 apart, 0.05 where steps are fed
with drafted tokens; of wrong ones some parameter's was 0.5 off and more."""
_NUM_DRAFT_STEPS = 2
"""Numbers of chained steps that a run has: one at first, K later."""


class FixedStep:
    """`compare` at fixed shapes.

    Args:
        shapes: at most MAX_SHAPES, one of which holds every batch (`fixed_shapes`).
        backend: of torch.compile; None: nothing is compiled.
        say: told in one line where the compiler fails; the steps then go on without it.
    """

    def __init__(
        self, shapes: Sequence[Shape], backend: str | Callable[..., Any] | None, say: Callable[[str], None]
    ) -> None:
        self.shapes, self._say = shapes, say
        self._seen: set[int] = set()  # numbers of draft steps whose gradient was compared
        self._compiled: Callable[..., Distillation] | None = None
        if backend is not None:
            torch._dynamo.config.recompile_limit += _NUM_DRAFT_STEPS * len(shapes)
            self._compiled = torch.compile(score, backend=backend, fullgraph=True, dynamic=False)

    @property
    def is_compiled(self) -> bool:
        """Not where nothing is to be, nor since the compiler failed."""
        return self._compiled is not None

    def __call__(
        self,
        module: MTPModule,
        loss: Loss,
        batch: Batch,
        states: BatchStates,
        num_steps: int,
        recompute: bool = False,
    ) -> Distillation:
        shape, device = smallest(self.shapes, Shape.of(batch)), loss.target.device
        ids_BL, states, where = padded(batch.ids_BL, states, loss.places(batch, num_steps), shape)
        given = (module, loss, to_device(ids_BL, device), states, where.to(device), num_steps, recompute)
        if self._compiled is not None:
            try:
                with _both_ways_at_once():
                    if num_steps not in self._seen and _has_the_plain_gradient(self._compiled, given):
                        self._seen.add(num_steps)
                    return self._compiled(*given)
            except Exception as error:  # whatever the compiler of this machine fails with, eager is right
                if is_out_of_memory(error):
                    raise
                self._compiled = None
                what = (
                    "compiled steps differ from plain ones"
                    if isinstance(error, _DiffersError)
                    else "torch.compile failed"
                )
                self._say(f"{what} ({in_a_line(error)}): the steps run without it")
        return score(*given)


class _DiffersError(Exception):
    """By how much, and where."""


def _has_the_plain_gradient(compiled: Callable[..., Distillation], given: tuple[Any, ...]) -> bool:
    """Compares the compiled step with the plain one: a compiler that drops a part of the gradient would train a worse
    drafter and say nothing.

    Returns:
        Whether these arguments could tell: not where nothing is scored, or no number, which is the plain step's to
        report.

    Raises:
        _DiffersError: where they differ.
    """
    parameters = dict(given[0].named_parameters())
    try:
        found, expected = (
            torch.autograd.grad(how(*given).loss_K.sum(), [*parameters.values()]) for how in (compiled, score)
        )
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return True  # the plain step takes more memory than the compiled one: it is never known
    largest = max(float(gradient.norm()) for gradient in expected)
    if not 0 < largest < float("inf"):
        return False
    for name, one, other in zip(parameters, found, expected, strict=True):
        distance = float((one - other).norm()) / max(float(other.norm()), largest / 100)  # below is rounding alone
        if not distance <= _MAX_ERROR:
            raise _DiffersError(f"the gradient of {name} is {distance:.0%} off")
    return True


def _both_ways_at_once() -> AbstractContextManager[Any]:
    """The backward graph is compiled with the forward one, so that a compiler fails before anything depends on it."""
    from torch._functorch import config

    name = "force_non_lazy_backward_lowering"
    return config.patch({name: True}) if hasattr(config, name) else nullcontext()
