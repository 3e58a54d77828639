"""What `vllm-mtp bench tune-kernels` tunes: every static table, bucket by bucket, on the shapes of the benchmark.

Tables for float32 are left out: no shape of the benchmark is in float32. Triton is imported when a function is called.
"""

# Shapes: C tokens of a chunk, T tokens, D hidden size, V vocabulary.

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from vllm_mtp.benchmarks.kernels.cases import draft_head as draft_head_cases
from vllm_mtp.benchmarks.kernels.cases import linear_kl as linear_kl_cases
from vllm_mtp.kernels.common.tables import TOKEN_BUCKETS, Launch, Table, architecture, loss_chunk_size
from vllm_mtp.kernels.ops import HeadRows, draft_head, quantize_head


class Tunable(NamedTuple):
    """One entry of a table."""

    table: str
    """Where the entry stands, 'kernels/draft_head/kernel.py: TABLES["16 bits"]'."""
    bucket: int
    """Tokens, as in the table, all of which are there when it is measured; 0 where they do not matter."""
    shipped: Launch
    candidates: Sequence[Launch]
    runs: Mapping[str, Callable[[Launch], object]]
    """By shape, what runs with a candidate."""
    in_graph: bool = True
    """Whether it is timed replayed from a CUDA graph, as serving runs it."""


def tunables(kernels: Sequence[str], size: str, device: torch.device) -> Iterator[Tunable]:
    """All of these kernels, one after the other, so that the inputs of one table exist at a time.

    Args:
        kernels: of KERNELS in config.py; one without a table has nothing to tune.
        size: of the benchmark's shapes.
        device: where they run.
    """
    for kernel in kernels:
        if kernel in _TUNABLES:
            yield from _TUNABLES[kernel](size, device)


@contextlib.contextmanager
def entry(table: Table, name: str, launch: Launch) -> Iterator[None]:
    """The launch as a table's entry for an architecture, whatever the number of tokens."""
    before = table.get(name)
    table[name] = {0: launch}
    try:
        yield
    finally:
        if before is None:
            del table[name]
        else:
            table[name] = before


def _shipped(table: Table, name: str, bucket: int) -> Launch:
    by_bucket = table.get(name, table["default"])
    return by_bucket.get(bucket) or by_bucket[0]


def _draft_head(size: str, device: torch.device) -> Iterator[Tunable]:
    """Int8 rows beside wider hidden states, as they are served; in 8 bits on both sides, float8 where there is one."""
    from vllm_mtp.kernels.draft_head import kernel as kernels

    cases, name = draft_head_cases, architecture(device)
    shapes = sorted({(hidden_size, num_rows) for _, hidden_size, num_rows in cases.SHAPES[size]})
    float8 = device.type == "cuda" and cases.has_float8(device)
    dtypes = {
        "16 bits": None,
        "8 bits": torch.float8_e4m3fn if float8 else torch.int8,
        "8 bits, hidden states wider": torch.int8,
    }

    def run(table: Table, hidden_TD: Tensor, rows: HeadRows, hidden_scale_T: Tensor | None, chosen: Launch) -> object:
        with entry(table, name, chosen):
            return draft_head(hidden_TD, rows, hidden_scale_T)

    for bits, dtype in dtypes.items():
        table, inputs = kernels.TABLES[bits], {}
        for shape in shapes:
            hidden_TD, weight_VD = cases.make_inputs(device, max(TOKEN_BUCKETS), *shape)
            rows = HeadRows(weight_VD) if dtype is None else HeadRows(*quantize_head(weight_VD, dtype))
            inputs[f"hidden {shape[0]} vocabulary {shape[1]}"] = hidden_TD, rows
        for bucket in TOKEN_BUCKETS:
            runs = {}
            for text, (hidden_TD, rows) in inputs.items():
                few_TD, hidden_scale_T = hidden_TD[:bucket], None
                if dtype is not None and bits == "8 bits":
                    few_TD, hidden_scale_T = quantize_head(few_TD, dtype)
                runs[text] = partial(run, table, few_TD, rows, hidden_scale_T)
            yield Tunable(
                f'kernels/draft_head/kernel.py: TABLES["{bits}"]',
                bucket,
                _shipped(table, name, bucket),
                kernels.launches_to_try(bits, bucket, name),
                runs,
            )


def _linear_kl(size: str, device: torch.device) -> Iterator[Tunable]:
    """The row kernels alone, on float32 logits of a chunk, with results in bfloat16: the products are the library's."""
    from vllm_mtp.kernels.linear_kl import kernel as kernels

    name = architecture(device)
    runs: dict[str, dict[str, Callable[[Launch], object]]] = {"SOFTMAX": {}, "DIVERGENCE": {}}
    for hidden_size, vocab_size in sorted({shape[1:] for shape in linear_kl_cases.SHAPES[size]}):
        num_rows = loss_chunk_size(device, hidden_size, vocab_size, mean_embedding=False)
        generator = torch.Generator(device).manual_seed(0)
        student_CV, teacher_CV = (
            3 * torch.randn(num_rows, vocab_size, generator=generator, device=device) for _ in range(2)
        )
        text = f"rows {num_rows} vocabulary {vocab_size}"
        runs["SOFTMAX"][text] = partial(_run_softmax, teacher_CV, student_CV.bfloat16())
        runs["DIVERGENCE"][text] = partial(_run_divergence, student_CV, teacher_CV, student_CV.bfloat16())
    for table_name, of_table in runs.items():
        table: Table = getattr(kernels, table_name)
        yield Tunable(
            f"kernels/linear_kl/kernel.py: {table_name}",
            0,
            _shipped(table, name, 0),
            kernels.launches_to_try(),
            of_table,
            in_graph=False,
        )


def _run_softmax(logits_CV: Tensor, p_CV: Tensor, chosen: Launch) -> None:
    from vllm_mtp.kernels.linear_kl.kernel import softmax_kernel

    num_rows, vocab_size = logits_CV.shape
    log_sum_C = logits_CV.new_empty(num_rows)
    top_C = log_sum_C.long()
    softmax_kernel[(num_rows,)](
        logits_CV, None, p_CV, log_sum_C, top_C, 1.0, 0.0, vocab_size, HAS_CAP=False, **chosen.arguments()
    )


def _run_divergence(student_CV: Tensor, teacher_CV: Tensor, gradient_CV: Tensor, chosen: Launch) -> None:
    from vllm_mtp.kernels.linear_kl.kernel import divergence_kernel

    num_rows, vocab_size = student_CV.shape
    log_sum_C = student_CV.new_full((num_rows,), 10.0)
    divergence_kernel[(num_rows,)](
        student_CV,
        teacher_CV,
        None,
        gradient_CV,
        log_sum_C,
        log_sum_C,
        None,
        torch.empty_like(log_sum_C),
        None,
        None,
        1.0,
        0.0,
        vocab_size,
        OBJECTIVE="kl",
        HAS_CAP=False,
        **chosen.arguments(),
    )


_TUNABLES: Mapping[str, Callable[[str, torch.device], Iterator[Tunable]]] = {
    "linear_kl": _linear_kl,
    "draft_head": _draft_head,
}
