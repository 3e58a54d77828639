"""The heads to draft with, on vLLM's layers and by the kernel, against the whole head's logits, on one rank or more.

Catches: a row of another token, a padding row of a rank that wins, ranks' rows in the wrong order, a rank without any
draft id, ties that go to another token than the whole head's, a bias, soft cap or scale left out, a packed or quantized
head read as if it were plain.

The ranks are threads, and the gathering between them is a concatenation; the rest is vLLM's own.
"""

# Shapes: T rows of hidden states, D hidden size, V vocabulary, J draft vocabulary, R tensor-parallel ranks.

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.drafts import LATE, d2t_of, damaged, random_tensors, small_config, write_random_draft
from vllm_mtp.contract.tensors import WEIGHTS_FILE

pytestmark = pytest.mark.vllm

NUM_ROWS, HIDDEN_SIZE = 5, 16
VOCAB_SIZE = 100  # vLLM pads it to 128
SOME = (0, 2, 3, 31, 32, 40, 63, 64, 96, 99)
DRAFT_IDS = {
    "some": SOME,
    "on the first rank": (1, 5, 7),
    "on the last rank": (97, 99),
    "all": tuple(range(VOCAB_SIZE)),
    "one": (50,),
}


@pytest.fixture(autouse=True)
def config() -> Iterator[None]:
    """vLLM's layers ask for it when they are built."""
    pytest.importorskip("vllm", reason="needs vLLM")
    from vllm.config import VllmConfig, set_current_vllm_config

    with set_current_vllm_config(VllmConfig()):
        yield


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


class Head(nn.Module):
    """A rank's part of an LM head, as vLLM lays it out: padded to a multiple of 64, then split."""

    def __init__(
        self, table_VD: Tensor, bias_V: Tensor | None = None, *, method: Any = None, rank: int = 0, num_ranks: int = 1
    ) -> None:
        from vllm.model_executor.layers.vocab_parallel_embedding import (
            UnquantizedEmbeddingMethod,
            VocabParallelEmbedding,
        )

        super().__init__()
        vocab_size, self.embedding_dim = table_VD.shape
        padded = -(-vocab_size // 64) * 64
        self.tp_size, self.num_embeddings_per_partition = num_ranks, padded // num_ranks
        self.shard_indices = VocabParallelEmbedding._get_indices(
            padded, padded, vocab_size, vocab_size, rank, num_ranks
        )
        own = slice(rank * padded // num_ranks, (rank + 1) * padded // num_ranks)
        # Whatever lies in the padding must not matter.
        table_VD = nn.functional.pad(table_VD, (0, 0, 0, padded - vocab_size), value=7.0)[own]
        self.weight = nn.Parameter(table_VD.clone(), requires_grad=False)
        self.bias = None
        if bias_V is not None:
            bias_V = nn.functional.pad(bias_V, (0, padded - vocab_size), value=99.0)[own]
            self.bias = nn.Parameter(bias_V.clone(), requires_grad=False)
        self.quant_method = UnquantizedEmbeddingMethod() if method is None else method
        self.quant_method.process_weights_after_loading(self)


class NoLayers(nn.Module):
    embed_tokens = None

    def forward(self, input_ids: Any, positions: Any, hidden_TD: Tensor, inputs_embeds: Any) -> Tensor:
        return hidden_TD


def draft_model(
    head: nn.Module,
    draft_ids: tuple[int, ...] | None,
    *,
    by_kernel: bool = False,
    head_dtype: str | None = None,
    **transform: Any,
) -> Any:
    """An `MTPDraftModel` without its layers, once vLLM has given it the target's head."""
    from vllm.model_executor.layers.logits_processor import LogitsProcessor

    from vllm_mtp.serving.draft_model import MTPDraftModel

    model = MTPDraftModel.__new__(MTPDraftModel)
    nn.Module.__init__(model)
    model.config = small_config(
        vocab_size=VOCAB_SIZE, draft_vocab_size=draft_ids and len(draft_ids), draft_head_dtype=head_dtype
    )
    model.logits_processor = LogitsProcessor(VOCAB_SIZE, **transform)
    model.model = NoLayers()
    model.register_buffer("d2t", None if draft_ids is None else d2t_of(torch.tensor(draft_ids)))
    model._chosen_heads = []
    model.only_top_tokens, model.has_kernels = by_kernel or head_dtype is not None, by_kernel
    model.lm_head = head
    return model


@torch.inference_mode()
def on_ranks(num_ranks: int, run: Callable[[int], Tensor]) -> list[Tensor]:
    """Runs a rank's part in a thread for each rank; what they gather is concatenated in their order.

    One thread computes at a time: vLLM's ranks are processes, and its CPU kernels keep scratch memory per process, so
    that two threads at once spoil each other's results.
    """
    barrier, turn = threading.Barrier(num_ranks), threading.Lock()
    parts, own = [torch.empty(0)] * num_ranks, threading.local()

    def wait_for_all() -> None:
        turn.release()
        try:
            barrier.wait(60)
        finally:
            turn.acquire()

    def gather(part: Tensor, dim: int = -1) -> Tensor:
        parts[own.rank] = part
        wait_for_all()
        whole = torch.cat(parts, dim)
        wait_for_all()
        return whole

    def rank(index: int) -> Tensor:
        own.rank = index
        with turn, torch.inference_mode():
            try:
                return run(index)
            except BaseException:
                barrier.abort()  # the others would wait for this one
                raise

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(num_ranks) as pool:
        module = "vllm.model_executor.layers.logits_processor"
        patch.setattr(f"{module}.tensor_model_parallel_all_gather", gather)
        patch.setattr(f"{module}.tensor_model_parallel_gather", gather)
        patch.setattr("vllm_mtp.serving.heads.tensor_model_parallel_all_gather", gather)
        ranks = [pool.submit(rank, index) for index in range(num_ranks)]
        errors = [error for future in ranks if (error := future.exception()) is not None]
        # That a rank waited in vain says nothing: what stopped another one does.
        if errors:
            raise min(errors, key=lambda error: isinstance(error, threading.BrokenBarrierError))
        return [future.result() for future in ranks]


@pytest.mark.parametrize("num_ranks", [1, 2, 4])
@pytest.mark.parametrize("draft_ids", DRAFT_IDS.values(), ids=DRAFT_IDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("options", [{}, {"bias": True, "soft_cap": 2.0, "scale": 0.3}], ids=["plain", "bias and cap"])
def test_logits_are_the_whole_heads(
    generator: torch.Generator, num_ranks: int, draft_ids: tuple[int, ...], dtype: torch.dtype, options: dict[str, Any]
) -> None:
    table_VD = torch.randn(VOCAB_SIZE, HIDDEN_SIZE, generator=generator).to(dtype)
    hidden_TD = torch.randn(NUM_ROWS, HIDDEN_SIZE, generator=generator).to(dtype)
    transform = dict(options)
    bias_V = torch.randn(VOCAB_SIZE, generator=generator).to(dtype) if transform.pop("bias", False) else None
    whole = draft_model(Head(table_VD, bias_V), None, **transform)

    def models_of(by_kernel: bool) -> list[Any]:
        ranks = [Head(table_VD, bias_V, rank=rank, num_ranks=num_ranks) for rank in range(num_ranks)]
        return [draft_model(head, draft_ids, by_kernel=by_kernel, **transform) for head in ranks]

    with torch.inference_mode():
        whole_TV = whole.compute_logits(hidden_TD)
    plain_TV = nn.functional.linear(hidden_TD.float(), table_VD.float(), None if bias_V is None else bias_V.float())
    if "scale" in options:
        plain_TV = options["scale"] * options["soft_cap"] * torch.tanh(plain_TV / options["soft_cap"])
    torch.testing.assert_close(whole_TV.float(), plain_TV, rtol=0.02, atol=0.02)
    expected_TV = torch.full_like(whole_TV, float("-inf"))
    expected_TV[:, draft_ids] = whole_TV[:, draft_ids]
    for by_kernel in (False, True):
        models = models_of(by_kernel)
        for logits_TV in on_ranks(num_ranks, lambda rank, of=models: of[rank].compute_logits(hidden_TD)):
            assert logits_TV.dtype == dtype
            torch.testing.assert_close(logits_TV, expected_TV, rtol=1e-5, atol=1e-5)
        for top_T in on_ranks(num_ranks, lambda rank, of=models: of[rank].get_top_tokens(hidden_TD)):
            assert top_T.dtype == torch.int64
            chosen_T = expected_TV.gather(1, top_T[:, None])[:, 0]
            if by_kernel:  # it compares sums that were not rounded to the dtype, before the cap
                torch.testing.assert_close(chosen_T, expected_TV.amax(-1), rtol=0.02, atol=0.02)
            else:
                assert top_T.tolist() == expected_TV.argmax(-1).tolist()


@pytest.mark.parametrize("num_ranks", [1, 2, 4])
def test_of_equal_logits_the_lowest_id_wins(num_ranks: int) -> None:
    table_VD = torch.full((VOCAB_SIZE, HIDDEN_SIZE), -1.0)
    table_VD[[1, 40, 41, 99]] = 0.5  # the best; 1 is not drafted, 99 on another rank
    hidden_TD = torch.ones(2, HIDDEN_SIZE)

    def models_of(draft_ids: tuple[int, ...] | None, by_kernel: bool) -> list[Any]:
        ranks = [Head(table_VD, rank=rank, num_ranks=num_ranks) for rank in range(num_ranks)]
        return [draft_model(head, draft_ids, by_kernel=by_kernel) for head in ranks]

    few = (0, 40, 41, 99)
    for models, best in ((models_of(None, by_kernel=True), 1), (models_of(few, by_kernel=True), 40)):
        for found in on_ranks(num_ranks, lambda rank, of=models: of[rank].get_top_tokens(hidden_TD)):
            assert found.tolist() == [best, best]
    models = models_of(few, by_kernel=False)
    for method in ("get_top_tokens", "compute_logits"):
        for found in on_ranks(num_ranks, lambda rank, method=method: getattr(models[rank], method)(hidden_TD)):
            assert (found if found.ndim == 1 else found.argmax(-1)).tolist() == [40, 40]


def test_rows_are_cut_once_and_alone(generator: torch.Generator) -> None:
    """In `forward`, which vLLM runs when it measures memory; logits come when the KV cache has taken the rest."""
    table_VD = torch.randn(VOCAB_SIZE, HIDDEN_SIZE, generator=generator)
    model = draft_model(Head(table_VD), SOME)
    hidden_TD = torch.randn(NUM_ROWS, HIDDEN_SIZE, generator=generator)
    model(None, None, hidden_TD)
    cut = model.chosen_head
    assert cut is not None
    model(None, None, hidden_TD)
    model.compute_logits(hidden_TD)
    model.get_top_tokens(hidden_TD)
    assert model.chosen_head is cut
    assert cut.weight.untyped_storage().nbytes() == len(SOME) * HIDDEN_SIZE * 4
    assert torch.equal(cut.weight, table_VD[list(SOME)])


def test_logits_of_two_draft_steps_are_two_tensors(generator: torch.Generator) -> None:
    """vLLM divides them by the temperature in place, and keeps some while it makes the next."""
    model = draft_model(Head(torch.randn(VOCAB_SIZE, HIDDEN_SIZE, generator=generator)), SOME)
    first_TV = model.compute_logits(torch.ones(1, HIDDEN_SIZE))
    expected_TV = first_TV.clone()
    model.compute_logits(torch.zeros(1, HIDDEN_SIZE)).fill_(3.0)
    assert torch.equal(first_TV, expected_TV)
    assert torch.equal(model.compute_logits(torch.ones(1, HIDDEN_SIZE)), expected_TV)


def test_adapters_stay_with_the_target(generator: torch.Generator) -> None:
    """With LoRA the shared head may be a wrapped one, whose forward adds an adapter."""
    head = Head(torch.randn(VOCAB_SIZE, HIDDEN_SIZE, generator=generator))
    wrapped = nn.Module()
    wrapped.base_layer = head
    hidden_TD = torch.randn(NUM_ROWS, HIDDEN_SIZE, generator=generator)
    for ids in (None, SOME):
        for found, expected in zip(
            draft_model(wrapped, ids).compute_logits(hidden_TD),
            draft_model(head, ids).compute_logits(hidden_TD),
            strict=True,
        ):
            assert torch.equal(found, expected)


@pytest.mark.parametrize("num_ranks", [1, 2])
@pytest.mark.parametrize("draft_ids", [None, SOME, DRAFT_IDS["on the last rank"]], ids=["whole", "some", "last rank"])
@pytest.mark.parametrize("row_dtype", ["int8", "fp8"])
def test_rows_in_8_bits(
    generator: torch.Generator, num_ranks: int, draft_ids: tuple[int, ...] | None, row_dtype: str
) -> None:
    """By the kernel, and by vLLM's layers on rounded rows: the best of the very logits that such rows have."""
    from vllm_mtp.kernels.ops import quantize_head
    from vllm_mtp.serving.heads import ROW_DTYPES, ArgmaxHead, DraftHead

    quantized = ROW_DTYPES[row_dtype]
    table_VD = torch.randn(VOCAB_SIZE, HIDDEN_SIZE, generator=generator) * torch.rand(
        VOCAB_SIZE, 1, generator=generator
    )
    bias_V = torch.randn(VOCAB_SIZE, generator=generator)
    hidden_TD = torch.randn(200, HIDDEN_SIZE, generator=generator)
    rows_VD, scale_V = quantize_head(table_VD, quantized)
    states_TD = hidden_TD
    if quantized == torch.float8_e4m3fn:
        states_TD, scale_T = quantize_head(hidden_TD, quantized)
        states_TD = states_TD.float() * scale_T[:, None]
    ids = list(range(VOCAB_SIZE) if draft_ids is None else draft_ids)
    exact_TJ, logits_TV = (hidden_TD @ table_VD.T + bias_V)[:, ids], states_TD @ (rows_VD.float() * scale_V[:, None]).T
    expected = torch.tensor(ids)[(logits_TV + bias_V)[:, ids].argmax(-1)].tolist()
    if draft_ids is None:
        assert expected != exact_TJ.argmax(-1).tolist(), "rounding changes nothing here: the test could not fail"
    for by_kernel in (False, True):
        ranks = [Head(table_VD, bias_V, rank=rank, num_ranks=num_ranks) for rank in range(num_ranks)]
        models = [draft_model(head, draft_ids, by_kernel=by_kernel, head_dtype=row_dtype) for head in ranks]
        for top_T in on_ranks(num_ranks, lambda rank, of=models: of[rank].get_top_tokens(hidden_TD)):
            assert top_T.tolist() == expected
        assert type(models[0].chosen_head) is (ArgmaxHead if by_kernel else DraftHead)


@pytest.mark.parametrize("num_ranks", [1, 2])
@pytest.mark.parametrize("draft_ids", [SOME, DRAFT_IDS["all"]], ids=["some", "all"])
@pytest.mark.parametrize("hidden_size", [16, 64])
def test_rows_that_stay_in_int8(
    generator: torch.Generator, num_ranks: int, draft_ids: tuple[int, ...], hidden_size: int
) -> None:
    """By vLLM's kernels for such layers, one of which, for AMX, wants multiples of 16 rows and 32 columns."""
    from vllm_mtp.kernels.ops import quantize_head
    from vllm_mtp.serving.int8_rows import Int8Rows

    has = torch.cpu.get_capabilities()
    if not (has.get("amx_int8") or has.get("avx512_vnni")):
        pytest.skip("this processor has no integer dot products: rows are rounded instead")
    hidden_TD = torch.randn(NUM_ROWS, hidden_size, generator=generator).bfloat16()
    bias_V = torch.randn(VOCAB_SIZE, generator=generator).bfloat16()
    ranks = [
        Head(torch.zeros(VOCAB_SIZE, hidden_size).bfloat16(), bias_V, rank=r, num_ranks=num_ranks)
        for r in range(num_ranks)
    ]
    models = [draft_model(head, draft_ids, head_dtype="int8") for head in ranks]
    for _ in range(2):  # once more after the target's weights were exchanged
        table_VD = torch.randn(VOCAB_SIZE, hidden_size, generator=generator).bfloat16()
        for rank, head in enumerate(ranks):
            head.weight.copy_(Head(table_VD, rank=rank, num_ranks=num_ranks).weight)
            head.quant_method.process_weights_after_loading(head)
            models[rank].follow_head()
        (rows_VD, scale_V), (states_TD, scale_T) = (quantize_head(of, torch.int8) for of in (table_VD, hidden_TD))
        expected_TV = states_TD.float() @ rows_VD.float().T * scale_T[:, None] * scale_V + bias_V
        expected_TJ = expected_TV[:, draft_ids]
        for top_T in on_ranks(num_ranks, lambda rank: models[rank].get_top_tokens(hidden_TD)):
            best_T1 = expected_TV.gather(1, top_T[:, None])
            torch.testing.assert_close(best_T1, expected_TJ.amax(1, keepdim=True), rtol=0.01, atol=0.01)
            assert set(top_T.tolist()) <= set(draft_ids)
        for logits_TV in on_ranks(num_ranks, lambda rank: models[rank].compute_logits(hidden_TD)):
            torch.testing.assert_close(logits_TV[:, draft_ids].float(), expected_TJ, rtol=0.01, atol=0.02)
        assert all(isinstance(model.chosen_head.quant_method, Int8Rows) for model in models)


def test_the_kernel_takes_plain_rows_by_reference(generator: torch.Generator) -> None:
    """In `forward`, when vLLM measures memory; and none of a target's head that holds no rows to take."""
    from vllm_mtp.serving.heads import TargetHead

    table_VD = torch.randn(VOCAB_SIZE, HIDDEN_SIZE, generator=generator)
    model = draft_model(Head(table_VD), None, by_kernel=True)
    model(None, None, torch.ones(1, HIDDEN_SIZE))
    assert model.chosen_head.weight.data_ptr() == model.lm_head.weight.data_ptr()
    assert len(model.chosen_head.weight) == VOCAB_SIZE, "not the padding"
    packed = draft_model(Head(table_VD, method=Int8Method()), None, by_kernel=True)
    hidden_TD = torch.randn(NUM_ROWS, HIDDEN_SIZE, generator=generator)
    expected = packed.compute_logits(hidden_TD).argmax(-1).tolist()
    assert packed.get_top_tokens(hidden_TD).tolist() == expected
    assert type(packed.chosen_head) is TargetHead
    some = draft_model(Head(table_VD, method=Int8Method()), SOME, by_kernel=True)
    best_T = packed.compute_logits(hidden_TD)[:, list(SOME)].argmax(-1)
    assert some.get_top_tokens(hidden_TD).tolist() == [SOME[best] for best in best_T]


class Int8Method:
    """Int8 weights [D, V], under a name of their own as GPTQ's, with a scale for every row of the head; `step` rounds
    hidden states as well."""

    def __init__(self, step: float | None = None, largest: float = 127.0) -> None:
        self.step, self.largest = step, largest

    def process_weights_after_loading(self, layer: nn.Module) -> None:
        layer.scale_V = layer.weight.abs().amax(-1).clamp(min=1e-6) / 127
        layer.qweight = nn.Parameter((layer.weight / layer.scale_V[:, None]).round().to(torch.int8).T, False)
        del layer.weight

    def apply(self, layer: Any, x_TD: Tensor, bias: Tensor | None = None) -> Tensor:
        if self.step is not None:
            x_TD = (x_TD / self.step).round().clamp(-self.largest, self.largest) * self.step
        logits_TV = (x_TD.float() @ layer.qweight.float() * layer.scale_V).to(x_TD.dtype)
        return logits_TV if bias is None else logits_TV + bias


@pytest.mark.parametrize("hidden_size", [16, 300])
@pytest.mark.parametrize("num_ranks", [1, 2])
@pytest.mark.parametrize("step", [None, 0.03], ids=["weights", "weights and activations"])
def test_quantized_head(generator: torch.Generator, hidden_size: int, num_ranks: int, step: float | None) -> None:
    table_VD = torch.randn(VOCAB_SIZE, hidden_size, generator=generator) * torch.rand(
        VOCAB_SIZE, 1, generator=generator
    )
    bias_V = torch.randn(VOCAB_SIZE, generator=generator)
    hidden_TD = torch.randn(NUM_ROWS, hidden_size, generator=generator)
    whole = draft_model(Head(table_VD, bias_V, method=Int8Method()), None)
    models = [
        draft_model(Head(table_VD, bias_V, method=Int8Method(step), rank=rank, num_ranks=num_ranks), SOME)
        for rank in range(num_ranks)
    ]
    expected_TJ = whole.compute_logits(hidden_TD)[:, SOME]
    error = 1e-5 if step is None else 0.02 * float(expected_TJ.abs().max())  # 1 is not a multiple of the step
    for logits_TV in on_ranks(num_ranks, lambda rank: models[rank].compute_logits(hidden_TD)):
        torch.testing.assert_close(logits_TV[:, SOME], expected_TJ, rtol=1e-5, atol=error)


OWN_ROWS = {"draft vocabulary": {"draft_vocab_size": 8}, "rows in 8 bits": {"draft_head_dtype": "int8"}}


@pytest.mark.parametrize("fields", OWN_ROWS.values(), ids=OWN_ROWS)
def test_vllms_copy_of_the_whole_head_beside_own_rows(fields: dict[str, Any]) -> None:
    """Catches a copy in 8 bits that is paid for and not used. Stand-in for vLLM 0.33 on a GPU."""
    from vllm_mtp.serving.options_check import why_no_second_head

    asked = SimpleNamespace(draft_lm_head_quantization="fp8")
    assert "keeps rows of its own: expected it to be left out" in str(why_no_second_head(small_config(**fields), asked))
    assert why_no_second_head(small_config(), asked) is None
    assert why_no_second_head(small_config(**fields), SimpleNamespace()) is None


@pytest.mark.parametrize("seed", range(20))
def test_a_single_row_is_enough_to_check(seed: int) -> None:
    """Logits of one row are as often small as not; that rounding looks large beside them is no reason to refuse."""
    table_VD = torch.randn(VOCAB_SIZE, 300, generator=torch.Generator().manual_seed(seed))
    model = draft_model(Head(table_VD, method=Int8Method(step=0.1)), (seed,))
    model.get_top_tokens(torch.ones(1, 300))
    torch.testing.assert_close(model.chosen_head.weight, table_VD[seed : seed + 1], rtol=0.05, atol=0.05)


def test_a_head_that_rounds_activations_to_4_bits_is_no_reason_to_refuse(generator: torch.Generator) -> None:
    """Which leaves an error of about a tenth (NVFP4, MXFP4)."""
    table_VD = torch.randn(VOCAB_SIZE, 300, generator=generator)
    model = draft_model(Head(table_VD, method=Int8Method(step=0.5)), SOME)
    model.get_top_tokens(torch.ones(1, 300))
    torch.testing.assert_close(model.chosen_head.weight, table_VD[list(SOME)], rtol=0.05, atol=0.05)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_head_whose_weight_is_gone(generator: torch.Generator, dtype: torch.dtype) -> None:
    """On a CPU, vLLM empties the weight of a head that a quantization config excludes, once it is packed."""
    from vllm.model_executor.layers.linear import UnquantizedLinearMethod
    from vllm.platforms import current_platform

    table_VD = torch.randn(VOCAB_SIZE, HIDDEN_SIZE, generator=generator).to(dtype)
    head = Head(table_VD, method=UnquantizedLinearMethod())
    if current_platform.is_cpu() and head.weight.numel():
        assert dtype == torch.bfloat16, "this vLLM keeps it: the case is another"
        pytest.skip("on this processor vLLM multiplies by bfloat16 weights as they are")
    model = draft_model(head, SOME)
    model.get_top_tokens(torch.ones(1, HIDDEN_SIZE, dtype=dtype))
    assert torch.equal(model.chosen_head.weight, table_VD[list(SOME)])


def test_head_whose_rows_cannot_be_read_is_refused(generator: torch.Generator) -> None:
    """Hidden states are quantized with a fixed scale that cuts off the 1 of a unit vector."""
    table_VD = torch.randn(VOCAB_SIZE, HIDDEN_SIZE, generator=generator)
    model = draft_model(Head(table_VD, method=Int8Method(step=0.1, largest=5.0)), SOME)
    with pytest.raises(ValueError, match=r"rows of the target's LM head.*\(Head, Int8Method\): serve a target whose"):
        model.get_top_tokens(torch.ones(1, HIDDEN_SIZE))


@pytest.mark.parametrize("damage", LATE, ids=lambda damage: damage.name)
def test_loading_checks_the_tensors(tmp_path: Any, damage: Any) -> None:
    """What the worker does with the checkpoint; config and headers were checked before."""
    from safetensors.torch import load_file

    from vllm_mtp.contract.config import MTPConfig

    draft = write_random_draft(tmp_path / "draft", small_config(vocab_size=VOCAB_SIZE))
    broken = damaged(draft, tmp_path / "broken", damage)
    model = draft_model(Head(torch.zeros(VOCAB_SIZE, HIDDEN_SIZE)), None)
    model.config = MTPConfig.from_pretrained(broken)
    with pytest.raises(ValueError, match=damage.message):
        model.load_weights(load_file(broken / WEIGHTS_FILE).items())


def test_loading_takes_the_draft_vocabulary() -> None:
    model = draft_model(Head(torch.zeros(VOCAB_SIZE, HIDDEN_SIZE)), (0, 1, 2))
    tensors = random_tensors(model.config)
    with pytest.raises(ValueError, match="no module or parameter named"):  # it has no layers to load
        model.load_weights(tensors.items())
    assert torch.equal(model.d2t, tensors["d2t"])
