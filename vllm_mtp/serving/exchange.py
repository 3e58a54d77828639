"""When the target's weights have been exchanged while it serves, so that rows cut from its head must be cut again.

What vLLM itself exchanges (`reload_weights`, weight transfer by NCCL or IPC) it puts back into the layer when it holds
the new values, and PyTorch tells of it (`register_module_parameter_registration_hook`). That needs no pass of the
draft model, so that it also holds where passes are replayed from CUDA graphs.

What is written into the weights without a word (a worker's own `model.load_weights`, `LLM.apply_model`) is noticed on a
CPU before a pass, by some of the values. On a GPU the host would have to wait for them: there
`MTPDraftModel.follow_head` is to be called afterwards.
"""

# Shapes: N rows of a rank's part of the head, D hidden size.

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from vllm_mtp.serving.heads import is_plain

_NUM_ROWS = 8  # of each parameter, spread over it


class HeadWatch:
    """Calls `follow` when the weights of a head are others than before."""

    def __init__(self, head: nn.Module, follow: Callable[[Tensor | None], None]) -> None:
        """Watches from now on, until nobody holds the watch.

        Args:
            head: the target's.
            follow: `Head.follow` of what was cut from it.
        """
        self.head, self.follow = head, follow
        self.was_plain = is_plain(head)
        self._seen = [rows.clone() for rows in _some_rows(head)]
        watch = weakref.ref(self)

        def on_registration(module: nn.Module, name: str, parameter: Any) -> None:
            found = watch()
            if found is not None and module is found.head and name == "weight" and found.was_plain:
                found._put_back(parameter)

        weakref.finalize(self, register_module_parameter_registration_hook(on_registration).remove)

    def look(self) -> None:
        """Follows the head if some of its rows are others than before; the host waits for them."""
        rows = _some_rows(self.head)
        if not all(map(torch.equal, rows, self._seen)):
            self._seen = [seen.clone() for seen in rows]
            self.follow(None)

    def _put_back(self, weight_ND: Tensor) -> None:
        # First vLLM puts one of the meta device in its place.
        if not weight_ND.is_meta:
            self.follow(weight_ND)


def _some_rows(head: nn.Module) -> list[Tensor]:
    """Views of about _NUM_ROWS rows of every parameter."""
    tensors = [parameter.detach() for parameter in head.parameters()]
    return [tensor[:: max(1, len(tensor) // _NUM_ROWS)] if tensor.dim() else tensor for tensor in tensors]
