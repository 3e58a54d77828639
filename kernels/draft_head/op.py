"""The tokens that a draft head chooses: `draft_head`, and its parts for a head that lies on several ranks."""

# Shapes: T tokens, V rows of the head, D hidden size, P parts of a head (tensor-parallel ranks).

import torch
from torch import Tensor

from vllm_mtp.kernels.common.registration import register
from vllm_mtp.kernels.common.tables import TOKEN_BUCKETS
from vllm_mtp.kernels.draft_head import reference
from vllm_mtp.kernels.draft_head.reference import DraftPart

QUANTISED = (torch.float8_e4m3fn, torch.int8)
"""What rows of a head can be quantised to."""
_FLOATING = (torch.float32, torch.bfloat16, torch.float16)


def draft_head(
    h: Tensor,
    w: Tensor,
    *,
    scale: Tensor | None = None,
    hidden_scale: Tensor | None = None,
    bias: Tensor | None = None,
    d2t: Tensor | None = None,
    logit_scale: float = 1.0,
    soft_cap: float | None = None,
    return_confidence: bool = False,
    gumbel_seed: int | Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """The token with the largest logit, or a sample of softmax(logits), without the logits.

    logits = logit_scale * soft_cap * tanh(z / soft_cap), z = scale * hidden_scale * (h w^T) + bias. The largest is
    looked for in z: a cap so low that it makes logits equal does not make them equal here. Of equal ones the lowest row
    wins, which is the lowest id where d2t ascends in ids; NaN loses against any number. Sums are in float32.

    Args:
        h: hidden states, [T, D]: float32, bfloat16 or float16; or rows of `quantize_head` in the dtype of w.
        w: rows of the head, [V, D]: in the dtype of h; or float8_e4m3fn or int8 of `quantize_head`.
        scale: of quantised w, float32 [V].
        hidden_scale: of quantised h, float32 [T].
        bias: of the head, [V].
        d2t: int64 [V], offsets of a draft vocabulary: the id of row i is i + d2t[i]; None: i.
        logit_scale: factor of the logits, positive; 1 / temperature in it samples at that temperature.
        soft_cap: bounds the logits' magnitude, before the factor.
        return_confidence: give the returned token's probability under softmax(logits), float32 [T], too.
        gumbel_seed: sample with it: the same seed and inputs give the same tokens, in whatever parts the head lies. A
            tensor (int64 [1], on the device) can change between replays of a CUDA graph.
        out: int64 [T], takes the ids, and is what is returned.

    Returns:
        Ids, int64 [T]; with `return_confidence`, their probabilities as well.

    Raises:
        ValueError: for shapes, dtypes or options that do not fit together.
    """
    if not w.size(0):
        raise ValueError("w: expected rows of a head, got none")
    part = draft_head_part(
        h,
        w,
        scale=scale,
        hidden_scale=hidden_scale,
        bias=bias,
        d2t=d2t,
        logit_scale=logit_scale,
        soft_cap=soft_cap,
        confidence=return_confidence,
        gumbel_seed=gumbel_seed,
    )
    ids = part.id_T if out is None else out.copy_(part.id_T)
    return (ids, torch.exp(part.logit_T - part.lse_T)) if return_confidence else ids


def draft_head_part(
    h: Tensor,
    w: Tensor,
    *,
    scale: Tensor | None = None,
    hidden_scale: Tensor | None = None,
    bias: Tensor | None = None,
    d2t: Tensor | None = None,
    first_id: int = 0,
    logit_scale: float = 1.0,
    soft_cap: float | None = None,
    confidence: bool = False,
    gumbel_seed: int | Tensor | None = None,
) -> DraftPart:
    """`draft_head` over some rows of a head, as a tensor-parallel rank has them; `combine_draft_parts` finds the best.

    Args, besides those of `draft_head`:
        w: may have no rows: such a part never wins.
        first_id: the id of the first row, where there is no d2t.

    Raises:
        ValueError: for shapes, dtypes or options that do not fit together.
    """
    _check(h, w, scale, hidden_scale, bias, d2t, logit_scale, soft_cap)
    if isinstance(gumbel_seed, int):
        gumbel_seed = torch.full((1,), gumbel_seed, dtype=torch.int64, device=h.device)
    if not w.size(0):
        return reference.part_without_rows(h, confidence)
    h = h if h.stride(-1) == 1 else h.contiguous()
    scale, hidden_scale, bias, d2t = (x if x is None else x.contiguous() for x in (scale, hidden_scale, bias, d2t))
    return DraftPart(
        *_draft_head(h, w, scale, hidden_scale, bias, d2t, gumbel_seed, first_id, logit_scale, soft_cap, confidence)
    )


def quantize_head(w: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Rows of a head, or hidden states, in 8 bits: w ~ q * scale, every row over its own scale, max |w| / largest.

    Args:
        w: [V, D] or [T, D], finite.
        dtype: torch.float8_e4m3fn or torch.int8.

    Returns:
        q [V, D] in the dtype, scale [V] float32.

    Raises:
        ValueError: for another dtype or shape.
    """
    if dtype not in QUANTISED:
        raise ValueError(f"dtype: expected one of {', '.join(map(str, QUANTISED))}, got {dtype}")
    if w.dim() != 2 or w.dtype not in _FLOATING:
        raise ValueError(f"w: expected floating-point rows [V, D], got {w.dtype} {list(w.shape)}")
    q, scale = _quantize_rows(w if w.stride(-1) == 1 else w.contiguous(), dtype)
    return q, scale


def warm_up_draft_head(w: Tensor, hidden_dtype: torch.dtype, **options: Tensor | float | None) -> None:
    """Runs `draft_head_part` once for every token bucket, so that none is compiled while a CUDA graph is captured.

    Args:
        w: the head's rows.
        hidden_dtype: of the hidden states that are to come; that of w if they will be quantised.
        **options: as they will be given to `draft_head_part`, but for `hidden_scale`.
    """
    for num_tokens in TOKEN_BUCKETS:
        if hidden_dtype in QUANTISED:
            for dtype in _FLOATING:  # of the activations: any of these
                rows = torch.zeros(num_tokens, w.size(1), dtype=dtype, device=w.device)
                h, options["hidden_scale"] = quantize_head(rows, hidden_dtype)
        else:
            h = torch.zeros(num_tokens, w.size(1), dtype=hidden_dtype, device=w.device)
        draft_head_part(h, w, **options)  # type: ignore[arg-type]


def _check(
    h: Tensor,
    w: Tensor,
    scale: Tensor | None,
    hidden_scale: Tensor | None,
    bias: Tensor | None,
    d2t: Tensor | None,
    logit_scale: float,
    soft_cap: float | None,
) -> None:
    if h.dim() != 2 or w.dim() != 2 or h.size(1) != w.size(1):
        raise ValueError(f"Expected h [T, D] and w [V, D], got {list(h.shape)} and {list(w.shape)}")
    if w.stride(1) != 1:
        raise ValueError("w: expected rows without gaps between their numbers, got a transposed or strided tensor")
    if w.dtype not in (*_FLOATING, *QUANTISED) or h.dtype not in (*_FLOATING, w.dtype):
        raise ValueError(f"h, w: expected floating-point or quantised rows, got {h.dtype} and {w.dtype}")
    if w.dtype in _FLOATING and h.dtype != w.dtype:
        raise ValueError(f"h: expected the dtype of w, {w.dtype}, got {h.dtype}")
    for name, dtype, found, rows in (("scale", w.dtype, scale, w), ("hidden_scale", h.dtype, hidden_scale, h)):
        if (dtype in QUANTISED) != (found is not None):
            raise ValueError(f"{name}: expected one with quantised rows, and only there; the dtype is {dtype}")
        if found is not None and (found.dtype != torch.float32 or found.shape != rows.shape[:1]):
            raise ValueError(f"{name}: expected float32 [{len(rows)}], got {found.dtype} {list(found.shape)}")
    if bias is not None and bias.shape != w.shape[:1]:
        raise ValueError(f"bias: expected [{len(w)}], a number for each row of w, got {list(bias.shape)}")
    if d2t is not None and (d2t.dtype != torch.int64 or d2t.shape != w.shape[:1]):
        raise ValueError(
            f"d2t: expected int64 [{len(w)}], an offset for each row of w, got {d2t.dtype} {list(d2t.shape)}"
        )
    if not logit_scale > 0:
        raise ValueError(f"logit_scale: expected a positive number, got {logit_scale}")
    if soft_cap is not None and not soft_cap > 0:
        raise ValueError(f"soft_cap: expected a positive number or None, got {soft_cap}")


def _fake_draft_head(
    hidden: Tensor,
    weight: Tensor,
    scale: Tensor | None,
    hidden_scale: Tensor | None,
    bias: Tensor | None,
    d2t: Tensor | None,
    seed: Tensor | None,
    first_id: int,
    logit_scale: float,
    soft_cap: float | None,
    confidence: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    key_T = hidden.new_empty(hidden.size(0), dtype=torch.float32)
    last = (torch.empty_like(key_T) if confidence else key_T.new_empty(0) for _ in range(2))
    return (hidden.new_empty(hidden.size(0), dtype=torch.int64), key_T, *last)  # type: ignore[return-value]


def _fake_quantize_rows(rows: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return rows.new_empty(rows.shape, dtype=dtype), rows.new_empty(rows.size(0), dtype=torch.float32)


_draft_head = register(
    "draft_head",
    "(Tensor hidden, Tensor weight, Tensor? scale, Tensor? hidden_scale, Tensor? bias, Tensor? d2t, Tensor? seed, "
    "int first_id, float logit_scale, float? soft_cap, bool confidence) -> (Tensor, Tensor, Tensor, Tensor)",
    reference=reference.best_rows,
    triton="draft_head.kernel:draft_head_part",
    fake=_fake_draft_head,
)
_quantize_rows = register(
    "quantize_rows",
    "(Tensor rows, ScalarType dtype) -> (Tensor, Tensor)",
    reference=reference.quantize_head,
    triton="draft_head.kernel:quantize_rows",
    fake=_fake_quantize_rows,
)
