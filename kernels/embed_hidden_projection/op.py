"""The entry of an MTP module: `embed_hidden_projection`, checked, and registered with torch."""

# Shapes: T tokens, V vocabulary, D hidden size, N outputs, C = 2D.

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from vllm_mtp.kernels.common.registration import register
from vllm_mtp.kernels.embed_hidden_projection import reference
from vllm_mtp.kernels.embed_hidden_projection.reference import ProjectionArguments


@dataclass(frozen=True)
class Projection:
    """The public function on an implementation: torch's operator, or plain PyTorch."""

    forward: Callable[[ProjectionArguments], Tensor]

    def embed_hidden_projection(
        self,
        ids_T: Tensor | None,
        embedding: Tensor,
        hidden_TD: Tensor,
        weight_NC: Tensor,
        embed_norm_D: Tensor,
        hidden_norm_D: Tensor,
        *,
        eps: float,
    ) -> Tensor:
        """u = W c with c = [norm(E x) g_e ; norm(h) g_h], norm(x) = x / sqrt(mean x^2 + eps).

        For drafting: there is no backward.

        Args:
            ids_T: token ids, int64 or int32; None: `embedding` has their rows already, as where the table lies on
                several ranks.
            embedding: E, the embedding's table, [V, D], or rows [T, D].
            hidden_TD: the target's hidden states, or the module's own of the draft step before.
            weight_NC: W, the projection.
            embed_norm_D: g_e, the embedding's norm weight.
            hidden_norm_D: g_h, the hidden state's.
            eps: of both norms.

        Returns:
            u, [T, N].

        Raises:
            ValueError: for shapes or dtypes that do not fit together.
        """
        embedding, hidden_TD = (x if x.stride(-1) == 1 else x.contiguous() for x in (embedding, hidden_TD))
        a = ProjectionArguments(
            None if ids_T is None else ids_T.contiguous(),
            embedding,
            hidden_TD,
            weight_NC,
            embed_norm_D.contiguous(),
            hidden_norm_D.contiguous(),
            eps,
        )
        _check(a)
        return self.forward(a)


def _check(a: ProjectionArguments) -> None:
    if a.hidden_TD.dim() != 2 or a.weight_NC.dim() != 2 or a.weight_NC.size(1) != 2 * a.hidden_TD.size(1):
        found = f"{list(a.hidden_TD.shape)} and {list(a.weight_NC.shape)}"
        raise ValueError(f"Expected hidden [T, D] and weight [N, 2D], got {found}")
    num_tokens, size = a.hidden_TD.shape
    wrong_rows = a.ids_T is None and a.embedding.size(0) != num_tokens
    if a.embedding.dim() != 2 or a.embedding.size(1) != size or wrong_rows:
        expected = f"[{num_tokens}, {size}], a row for each token" if a.ids_T is None else f"a table [V, {size}]"
        raise ValueError(f"embedding: expected {expected}, got {list(a.embedding.shape)}")
    if not a.embedding.dtype == a.hidden_TD.dtype == a.weight_NC.dtype:
        dtypes = f"{a.embedding.dtype}, {a.hidden_TD.dtype}, {a.weight_NC.dtype}"
        raise ValueError(f"embedding, hidden, weight: expected one dtype, got {dtypes}")
    if a.weight_NC.stride(1) != 1:
        raise ValueError("weight: expected rows without gaps between their numbers, got a transposed or strided tensor")
    if a.ids_T is not None and (a.ids_T.shape != (num_tokens,) or a.ids_T.dtype not in (torch.int64, torch.int32)):
        raise ValueError(f"ids: expected integers [{num_tokens}], got {a.ids_T.dtype} {list(a.ids_T.shape)}")
    for name, norm_D in (("embed_norm", a.embed_norm_D), ("hidden_norm", a.hidden_norm_D)):
        if norm_D.shape != (size,):
            raise ValueError(f"{name}: expected [{size}], got {list(norm_D.shape)}")


def _fake(a: ProjectionArguments) -> Tensor:
    return a.hidden_TD.new_empty(a.hidden_TD.size(0), a.weight_NC.size(0))


OPERATORS = Projection(
    register(
        "embed_hidden_projection",
        reference.embed_hidden_projection,
        triton="embed_hidden_projection.kernel:embed_hidden_projection",
        fake=_fake,
    )
)
PLAIN = Projection(reference.embed_hidden_projection)
