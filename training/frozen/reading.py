"""What the frozen target says of a batch: computed here or elsewhere, and as the bytes that a store keeps of it."""

# Shapes: B sequences, S tokens, D hidden size, N teacher rows, J draft vocabulary.

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from vllm_mtp.common.engine_options import EngineOptions
from vllm_mtp.common.errors import InputError
from vllm_mtp.kernels.ops import Teacher
from vllm_mtp.module.shared_head import SharedHead
from vllm_mtp.training.cluster_options import ClusterOptions
from vllm_mtp.training.data.batches import Batch
from vllm_mtp.training.frozen.reachable import check_reachable
from vllm_mtp.training.frozen.target import FrozenTarget
from vllm_mtp.training.loss.mean_embedding import teacher_of
from vllm_mtp.training.loss.objective import teacher_rows
from vllm_mtp.training.transfer import on_the_way, to_device
from vllm_mtp.training.work import Here, Work, Workers, workers

Content = Callable[[], bytes]
"""What makes the bytes of a stored batch."""
_IS_FINITE = "is_finite"


class BatchStates(NamedTuple):
    """The target's side of a batch."""

    hidden_BSD: Tensor
    teacher: Teacher | None
    """What the loss needs at the batch's teacher rows; None where it computes that from the hidden states."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """A target that reads batches in this process."""

    target: FrozenTarget
    head: SharedHead
    """The head that the loss uses."""
    with_teacher: bool
    """Compute the teacher for the mean-embedding loss too."""

    @contextmanager
    def readers(self) -> Iterator[tuple[Workers, Work[Batch, Content]]]:
        """Who reads, and how."""
        yield Here(), self

    @contextmanager
    def opened(self) -> Iterator[Callable[[Batch], Content]]:
        with self.target.reading():
            yield self.content

    def states(self, batch: Batch, mask_BS: Tensor) -> BatchStates:
        """Hidden states of a batch, and the teacher at the positions of the mask."""
        hidden_BSD = self.target.hidden_states(batch.ids_BL[:, :-1])
        if not self.with_teacher:
            return BatchStates(hidden_BSD, None)
        rows_N = to_device(teacher_rows(mask_BS), hidden_BSD.device)
        mean_ND, constant_N, top_N = teacher_of(hidden_BSD.flatten(0, 1).index_select(0, rows_N), self.head)
        return BatchStates(hidden_BSD, Teacher(mean_ND.half(), constant_N, top_N))

    def content(self, batch: Batch) -> Content:
        """What the target says of a batch, at all of its text; the device goes on while another thread makes the file.

        Returns:
            What makes a safetensors file of it.

        Raises:
            InputError: when that is asked for, if the hidden states are no numbers.
        """
        hidden_BSD, teacher = self.states(batch, batch.text_BS)
        tensors = {"hidden": hidden_BSD, _IS_FINITE: torch.isfinite(hidden_BSD).all()}
        if teacher is not None:
            tensors |= {"mean": teacher.mean_ND, "constant": teacher.constant_N, "top": teacher.top_N.int()}
        return partial(_file_of, on_the_way(tensors), self.target)


def _file_of(waited: Callable[[], dict[str, Tensor]], target: FrozenTarget) -> bytes:
    from safetensors.torch import save

    tensors = waited()
    if not tensors.pop(_IS_FINITE):
        raise _no_numbers(target)
    return save(tensors)


def check_numbers(hidden_BSD: Tensor, target: FrozenTarget) -> None:
    """Asked where a loss is no number; the host waits for the answer.

    Raises:
        InputError: for hidden states that are no numbers.
    """
    if not torch.isfinite(hidden_BSD).all():
        raise _no_numbers(target)


def _no_numbers(target: FrozenTarget) -> InputError:
    return InputError(
        "dtype",
        f"expected numbers, the target's hidden states hold NaN or infinity in {target.dtype_name}: give float32, "
        "or bfloat16 in place of float16; if that is what it is, the target's weights are damaged",
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Elsewhere:
    """The same target, read by workers on a cluster that load it there."""

    cluster: ClusterOptions
    load: Callable[..., FrozenTarget]
    """Takes the device by name."""
    path: str
    """Folder or Hub id of the target, as other machines find it."""
    options: EngineOptions
    weights_sha256: str
    draft_ids_J: Tensor | None
    with_teacher: bool

    @contextmanager
    def readers(self) -> Iterator[tuple[Workers, Work[Batch, Content]]]:
        """Who reads, and how."""
        check = partial(check_reachable, self.path, self.options.revision, self.weights_sha256)
        with workers(self.cluster, self.options.tensor_parallel_size, check) as found:
            device = "cuda" if found.has_gpus else "cpu"
            yield found, replace(self, load=partial(self.load, device=device))

    @contextmanager
    def opened(self) -> Iterator[Callable[[Batch], Content]]:
        target = self.load()
        head = target.head.cut(self.draft_ids_J)
        with Reading(target=target, head=head, with_teacher=self.with_teacher).opened() as content:
            yield lambda batch: partial(bytes, content(batch)())  # made before it travels
