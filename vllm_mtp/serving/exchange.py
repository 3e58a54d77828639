"""When the target's weights have been exchanged while it serves, so that rows cut from its head must be cut again.

What vLLM itself exchanges in a checkpoint's format (`reload_weights`, weight transfer by NCCL or IPC) it puts back into
the layer when it holds the new values, and PyTorch tells of it (`register_module_parameter_registration_hook`). That
needs no pass of the draft model, so that it also holds where passes are replayed from CUDA graphs.

What is written into the weights without a word (in the kernel's format, by a worker's own `model.load_weights`, by
`LLM.apply_model`), and any change of a quantized head, is noticed on a CPU before a pass, by some of the rows. On a GPU
the host would have to wait for them: there `WorkerExtension.follow_head` is to be called afterwards.
"""

# Shapes: N rows of a rank's part of the head, D hidden size.

import logging
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from vllm_mtp.serving.heads import is_plain

logger = logging.getLogger(__name__)
_NUM_ROWS = 8  # of each parameter, spread over it


class HeadWatch:
    """Calls `follow` when the weights of a head are others than before."""

    def __init__(self, head: Any, follow: Callable[[Tensor | None], None]) -> None:
        """Watches from now on, until nobody holds the watch.

        Args:
            head: the target's.
            follow: `Head.follow` of what was cut from it.
        """
        self.head, self._follow = head, follow
        self._own_weight = head.weight if is_plain(head) else None
        self._has_warned = False
        self._seen = [rows.clone() for rows in _some_rows(head)]
        watch = weakref.ref(self)

        def on_registration(module: nn.Module, name: str, parameter: Any) -> None:
            found = watch()
            # Before it is put back, others stand in its place: of the meta device, then without values.
            if found is not None and module is found.head and name == "weight" and parameter is found._own_weight:
                found.follow(parameter)

        weakref.finalize(self, register_module_parameter_registration_hook(on_registration).remove)

    def look(self) -> None:
        """Follows the head if some of its rows are others than before; the host waits for them."""
        rows = _some_rows(self.head)
        if not all(map(torch.equal, rows, self._seen)):
            self._seen = [seen.clone() for seen in rows]
            self.follow()

    def follow(self, weight_ND: Tensor | None = None) -> None:
        """Follows the head, or says once that it cannot: bad drafts cost speed, an exception here the engine."""
        try:
            self._follow(weight_ND)
        except Exception as error:
            if not self._has_warned:
                logger.warning("The target's head was exchanged, the drafter keeps the rows of the old one: %s", error)
            self._has_warned = True


class WorkerExtension:
    """What `--worker-extension-cls vllm_mtp.serving.exchange.WorkerExtension` adds to vLLM's workers."""

    get_draft_model: Callable[[], Any]
    """vLLM's own."""

    def follow_head(self) -> None:
        """`LLM.collective_rpc("follow_head")`, or the server's `/collective_rpc`: cuts the rows again."""
        self.get_draft_model().follow_head()


def _some_rows(head: nn.Module) -> list[Tensor]:
    """Views of about _NUM_ROWS rows of every parameter."""
    tensors = [parameter.detach() for parameter in head.parameters()]
    return [tensor[:: max(1, len(tensor) // _NUM_ROWS)] if tensor.dim() else tensor for tensor in tensors]
