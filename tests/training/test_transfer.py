"""A step of training asks its device for nothing, until its figures are read at the end.

Catches: a mask that the device selects by, a number read to decide what comes next: on a GPU the host waits there until
all that was asked before is done. Tensors of the meta device have no values, so that whoever reads one fails.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch.fx import GraphModule

from tests.training.test_loop import SENTENCE, STEP, TINY, save_target
from vllm_mtp.common.errors import is_out_of_gpu_memory, is_out_of_memory
from vllm_mtp.kernels.ops import Teacher
from vllm_mtp.training.config import TrainConfig
from vllm_mtp.training.frozen.reading import BatchStates
from vllm_mtp.training.frozen.states import TargetStates
from vllm_mtp.training.loop import loss_and_gradient
from vllm_mtp.training.loss import chain_attention
from vllm_mtp.training.loss.fixed import FixedStep
from vllm_mtp.training.loss.loss import Loss
from vllm_mtp.training.loss.objective import Places, _rejected_so_far
from vllm_mtp.training.loss.shapes import fixed_shapes, shapes_of
from vllm_mtp.training.optimizers import make_optimizers, update
from vllm_mtp.training.run import Run, TrainInputs, prepare
from vllm_mtp.training.transfer import begins_on, on_the_way, pinned, to_device

META = torch.device("meta")


def on_meta(run: Run) -> Run:
    """The same run, its module, optimizers and what it has of its target without values."""
    head = run.target.head
    head = replace(head, embedding_VD=head.embedding_VD.to(META), head_VD=head.head_VD.to(META))
    target = replace(run.target, model=None, head=head, device=META)
    run.module.to(META)

    def states(index: int, part: slice) -> BatchStates:
        hidden_BSD, teacher = run.states(index, part)
        teacher = None if teacher is None else Teacher(*(tensor.to(META) for tensor in teacher))
        return BatchStates(hidden_BSD.to(META), teacher)

    loss, optimizers = Loss(target, None, run.config), make_optimizers(run.module, run.config, target.dtype)
    return replace(run, target=target, loss=loss, states=cast(TargetStates, states), optimizers=optimizers)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"objective": "lm"},
        {"optimizer": "adamw", "qk_norm": True},
        {"step_tokens": "drafted", "objective": "e2e-tv"},
    ],
)
def test_a_step_waits_for_nothing(settings: dict[str, Any], tmp_path: Path) -> None:
    run = on_meta(small_run(tmp_path, **settings))
    figures = loss_and_gradient(run, 0, run.batches[0], 0)
    assert figures.shape == (2 + 3,)
    update(run.optimizers, 1.0)
    with pytest.raises((RuntimeError, NotImplementedError)):
        figures.tolist()


def small_run(tmp_path: Path, **settings: Any) -> Run:
    """Of three draft steps."""
    target = save_target(tmp_path / "target", tied=False)
    text = tmp_path / "text.txt"
    text.write_text(SENTENCE * 10, encoding="utf-8")
    config = TrainConfig(tokens=4 * STEP, num_steps_unrolled=3, single_step_fraction=0.0, **TINY | settings)
    inputs = TrainInputs(
        target=str(target),
        data=[text],
        output=tmp_path / "draft",
        device="cpu",
        show_progress=False,
        accumulate=2,
        recompute=settings.get("optimizer") == "adamw",
    )
    run = prepare(config, inputs)
    assert isinstance(run, Run)
    return run


def test_what_a_gpu_is_given_compiles_into_one_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its attention has operators of its own, which know the meta device."""
    monkeypatch.setattr(chain_attention, "_is_supported", lambda *_: True)
    monkeypatch.setattr(
        "vllm_mtp.training.loss.fixed._has_the_plain_gradient", lambda *_: True
    )  # once, it does read numbers
    run = on_meta(small_run(tmp_path))
    counter = CompileCounterWithBackend("aot_eager")
    fixed = FixedStep(fixed_shapes(shapes_of(run.batches, 2), 1), counter, pytest.fail)
    loss_and_gradient(replace(run, compare=fixed), 0, run.batches[0], 0)
    assert counter.frame_count == 1
    parts = (part for part in counter.graphs[0].modules() if isinstance(part, GraphModule))
    code = "".join(part.code for part in parts)
    assert "_scaled_dot_product_flash_attention(" in code
    assert "vllm_mtp.linear_kl_mean" in code


def test_the_gradient_of_a_chain_reads_no_number() -> None:
    """Of torch's cumprod it reads one, and not on the meta device."""
    rejected_KN = torch.rand(3, 5, requires_grad=True)
    where = Places(torch.arange(5), torch.arange(5).expand(3, 5), torch.ones(3, 5, dtype=torch.bool), None)
    with torch.profiler.profile() as profile:
        _rejected_so_far(rejected_KN, where, 5).sum().backward()
    assert "aten::_local_scalar_dense" not in {event.key for event in profile.key_averages()}


def test_memory_of_the_host_that_cannot_be_pinned_is_no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA says the same of both."""

    def no_room(self: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(torch.Tensor, "pin_memory", no_room)
    with pytest.raises(MemoryError, match=r"^40 bytes of the host's memory cannot be pinned") as found:
        pinned(torch.arange(5))
    assert is_out_of_memory(found.value)
    assert not is_out_of_gpu_memory(found.value)


def test_a_thread_begins_on_its_process_s_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a context of every process on the first GPU: 0.5 GiB each, for a new thread has that one."""
    own: list[int] = []
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    monkeypatch.setattr(torch.cuda, "set_device", own.append)
    begin = begins_on(torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)  # as the thread has it
    begin()
    begins_on(torch.device("cuda", 2))()
    begins_on(torch.device("cpu"))()
    assert own == [3, 2]


def test_a_copy_is_the_same() -> None:
    tensor = torch.arange(5)
    assert torch.equal(to_device(tensor, torch.device("cpu")), tensor)
    assert to_device(tensor, META).device == META


@pytest.mark.parametrize(
    "device",
    ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))],
)
def test_what_is_on_the_way_arrives(device: str) -> None:
    """As it was, contiguous, in any dtype; on a GPU also where the memory is used for something else right after."""
    tensors = {"transposed": torch.randn(300, 200).T, "half": torch.randn(70).half(), "flag": torch.tensor(True)}
    waited = on_the_way({name: tensor.to(device) for name, tensor in tensors.items()})
    if device == "cuda":
        torch.zeros(300, 200, device=device)
    for name, found in waited().items():
        assert found.device.type == "cpu"
        assert found.is_contiguous()
        assert torch.equal(found, tensors[name])
