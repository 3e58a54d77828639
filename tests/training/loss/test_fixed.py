"""A step at fixed shapes, compiled: the loss, agreement and gradient of the plain step.

Catches: padding with weight, a part of the step that no compiler can follow, a shape that is compiled anew in every
epoch, a compiler whose failure ends a run.
"""

# Shapes: B rows, S tokens, L = S + 1, K draft steps, D hidden size.

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from tests.training.test_loop import save_target
from vllm_mtp.module.mtp import MTPModule
from vllm_mtp.training.config import TrainConfig
from vllm_mtp.training.data.batches import Batch, Batches
from vllm_mtp.training.data.rows import Row
from vllm_mtp.training.frozen.reading import BatchStates, Reading
from vllm_mtp.training.frozen.target import FrozenTarget
from vllm_mtp.training.loss import fixed
from vllm_mtp.training.loss.compiled import compiler_fault, has_cpp_compiler
from vllm_mtp.training.loss.fixed import FixedStep
from vllm_mtp.training.loss.loss import Loss, compare
from vllm_mtp.training.loss.objective import Distillation
from vllm_mtp.training.loss.shapes import Shape, fixed_shapes, shapes_of
from vllm_mtp.training.start.initial import draft_config_for, make_module

DRAFT_IDS_J = torch.arange(7, 250, 3)
K = 3
SETTINGS: list[dict[str, Any]] = [
    {},
    {"objective": "lm"},
    {"objective": "e2e-tv", "step_tokens": "drafted", "qk_norm": True},
]


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], FrozenTarget]:
    folder = save_target(tmp_path_factory.mktemp("target"), tied=True)
    return lambda dtype: FrozenTarget.load(str(folder), device="cpu", dtype=dtype)


@pytest.fixture(scope="module")
def batches() -> Batches:
    """Rows of unequal length, of which the latter part counts."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(16, 41, (40,), generator=generator).tolist()
    rows = [Row.counted_from(torch.randint(260, (n,), generator=generator).int(), n // 3) for n in lengths]
    return Batches([rows], 160, seed=0)


class Step:
    """What `compare` is given, and what it gives."""

    def __init__(self, target: FrozenTarget, **settings: Any) -> None:
        config = TrainConfig(sequence_length=40, dtype=target.dtype_name, **settings)
        draft_config = draft_config_for(target.config, config, {}, DRAFT_IDS_J)
        self.module: MTPModule = make_module(draft_config, DRAFT_IDS_J, seed=0)
        self.loss = Loss(target, DRAFT_IDS_J, config)
        self.reading = Reading(target=target, head=self.loss.head, with_teacher=self.loss.uses_mean_embedding)

    def figures(
        self, how: Callable[..., Distillation], batch: Batch, num_steps: int, recompute: bool = False
    ) -> list[torch.Tensor]:
        """Loss and agreement of each draft step, and the gradient of every parameter."""
        self.module.zero_grad()
        states = self.reading.states(batch, batch.mask_BS)
        found = how(self.module, self.loss, batch, states, num_steps, recompute)
        found.loss_K.sum().backward()
        gradients = [parameter.grad for parameter in self.module.parameters() if parameter.grad is not None]
        assert len(gradients) == len([*self.module.parameters()])
        return [found.loss_K.detach(), found.agreement_K, *(gradient.clone() for gradient in gradients)]


def close(found: list[torch.Tensor], expected: list[torch.Tensor], tolerance: float = 1e-5) -> None:
    for one, other in zip(found, expected, strict=True):
        assert (one - other).norm() <= tolerance * other.norm().clamp(min=1e-3)


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("num_steps", [1, K])
def test_a_padded_step_is_the_plain_one(
    settings: dict[str, Any], num_steps: int, targets: Callable[[str], FrozenTarget], batches: Batches
) -> None:
    step = Step(targets("float32"), **settings)
    how = FixedStep(fixed_shapes(shapes_of(batches, 2), 2), None, print)
    for index in range(len(batches)):
        for part in batches[index].parts(2):
            batch = batches[index].rows(part)
            close(step.figures(how, batch, num_steps), step.figures(compare, batch, num_steps))


@pytest.mark.parametrize("settings", SETTINGS)
def test_padding_has_no_weight(
    settings: dict[str, Any], targets: Callable[[str], FrozenTarget], batches: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever stands there, every figure and gradient is the same to the last bit."""
    step, batch = Step(targets("float32"), **settings), batches[0]
    num_rows, num_tokens = batch.mask_BS.shape
    how = FixedStep([Shape(num_rows + 2, num_tokens + 9, 200)], None, print)
    expected, padded = step.figures(how, batch, K), fixed.padded

    def garbage(*args: Any) -> Any:
        wide_BL, states, where = padded(*args)
        wide_BL[num_rows:], wide_BL[:, num_tokens + 1 :] = 200, 201
        states.hidden_BSD[num_rows:], states.hidden_BSD[:, num_tokens:] = 1e3, -1e3
        num_places = int((where.exists_KN.any(0)).nonzero().max()) + 1
        where.rows_N[num_places:], where.index_KN[:, num_places:] = 5, 6
        return wide_BL, states, where

    monkeypatch.setattr(fixed, "padded", garbage)
    assert all(torch.equal(one, other) for one, other in zip(step.figures(how, batch, K), expected, strict=True))


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(SETTINGS[0], id="kl"),
        pytest.param(SETTINGS[1], id="lm", marks=pytest.mark.extended),
        pytest.param(SETTINGS[2], id="e2e-tv", marks=pytest.mark.extended),
        pytest.param({"dtype": "bfloat16"}, id="bfloat16", marks=pytest.mark.extended),
    ],
)
def test_a_compiled_step_is_the_plain_one_in_one_graph(
    settings: dict[str, Any], targets: Callable[[str], FrozenTarget], batches: Batches
) -> None:
    more = dict(settings)
    step, said = Step(targets(more.pop("dtype", "float32")), **more), []
    counter = CompileCounterWithBackend("aot_eager")
    how = FixedStep(fixed_shapes(shapes_of(batches, 1), 1), counter, said.append)
    recompute, tolerance = settings == SETTINGS[0], 0.02 if "dtype" in settings else 1e-5
    close(step.figures(how, batches[1], K, recompute), step.figures(compare, batches[1], K), tolerance)
    assert (counter.frame_count, said) == (1, [])


def test_over_epochs_nothing_is_compiled_twice(targets: Callable[[str], FrozenTarget], batches: Batches) -> None:
    """One graph, without a break, for each shape at each number of draft steps."""
    step, counter, said = Step(targets("float32")), CompileCounterWithBackend("eager"), []
    shapes = fixed_shapes(shapes_of(batches, 1), 2)
    how = FixedStep(shapes, counter, said.append)
    assert len({Shape.of(batches[index]) for index in range(len(batches))}) > 2 * len(shapes) == 4
    for num_steps, num_graphs in ((1, 2), (1, 2), (2, 4), (2, 4)):
        for index in range(len(batches)):
            how(step.module, step.loss, batches[index], states_of(step, batches[index]), num_steps)
        assert (counter.frame_count, said) == (num_graphs, [])


def states_of(step: Step, batch: Batch) -> BatchStates:
    return step.reading.states(batch, batch.mask_BS)


def test_a_compiler_that_fails_costs_a_line(targets: Callable[[str], FrozenTarget], batches: Batches) -> None:
    tried, said = [], []

    def fails(*args: Any) -> Any:
        tried.append(1)
        raise OSError("no compiler")

    step, batch = Step(targets("float32")), batches[0]
    how = FixedStep(fixed_shapes(shapes_of(batches, 1), 2), fails, said.append)
    for _ in range(2):
        close(step.figures(how, batch, K), step.figures(compare, batch, K))
    assert tried == [1]
    [line] = said
    assert line.startswith("torch.compile failed (BackendCompilerFailed: ")
    assert line.endswith("OSError: no compiler): the steps run without it")


def test_a_backward_graph_that_does_not_compile_costs_a_line_too(
    targets: Callable[[str], FrozenTarget], batches: Batches
) -> None:
    """It is compiled with the forward graph: later, in the backward pass, nobody would catch it."""
    from torch._dynamo.backends.common import aot_autograd

    def fails(graph: Any, inputs: Any) -> Any:
        raise OSError("no compiler")

    step, batch, said = Step(targets("float32")), batches[0], []
    backend = aot_autograd(fw_compiler=make_boxed_func_of, bw_compiler=fails)
    how = FixedStep(fixed_shapes(shapes_of(batches, 1), 2), backend, said.append)
    close(step.figures(how, batch, K), step.figures(compare, batch, K))
    assert [line.split(" (")[0] for line in said] == ["torch.compile failed"]


def test_a_compiler_whose_gradient_is_wrong_costs_a_line_too(
    targets: Callable[[str], FrozenTarget], batches: Batches
) -> None:
    """Torch 2.11 dropped a part of it, and the drafter was worse without a word."""
    from torch._dynamo.backends.common import aot_autograd

    def twice(graph: Any, inputs: Any) -> Any:
        backward = make_boxed_func_of(graph, inputs)

        def wrong(args: list[Any]) -> list[Any]:
            return [None if found is None else 2 * found for found in backward(args)]

        wrong._boxed_call = True  # type: ignore[attr-defined]
        return wrong

    step, batch, said = Step(targets("float32")), batches[0], []
    backend = aot_autograd(fw_compiler=make_boxed_func_of, bw_compiler=twice)
    how = FixedStep(fixed_shapes(shapes_of(batches, 1), 2), backend, said.append)
    close(step.figures(how, batch, K), step.figures(compare, batch, K))
    [line] = said
    assert line.startswith("compiled steps differ from plain ones (_DiffersError: the gradient of ")
    assert "100% off" in line


def test_a_batch_that_scores_nothing_tells_nothing(targets: Callable[[str], FrozenTarget], batches: Batches) -> None:
    """Its gradient is zero either way; the next one is compared."""
    step, said = Step(targets("float32")), []
    how = FixedStep(fixed_shapes(shapes_of(batches, 1), 1), "eager", said.append)
    batch = batches[0]
    none_BS = torch.zeros_like(batch.mask_BS)
    nothing = Batch(batch.ids_BL, none_BS, none_BS)
    how(step.module, step.loss, nothing, states_of(step, nothing), K)
    assert (how.is_compiled, said, how._seen) == (True, [], set())
    close(step.figures(how, batch, K), step.figures(compare, batch, K))
    assert (how.is_compiled, said, how._seen) == (True, [], {K})


def make_boxed_func_of(graph: Any, inputs: Any) -> Any:
    from functorch.compile import make_boxed_func

    return make_boxed_func(graph.forward)


@pytest.mark.extended
@pytest.mark.skipif(not has_cpp_compiler(), reason="needs a C++ compiler")
def test_compiled_for_this_machine(targets: Callable[[str], FrozenTarget], batches: Batches) -> None:
    assert compiler_fault(torch.device("cpu")) == ""
    step, said = Step(targets("float32")), []
    how = FixedStep(fixed_shapes(shapes_of(batches, 1), 1), "inductor", said.append)
    close(step.figures(how, batches[0], 2), step.figures(compare, batches[0], 2), 1e-4)
    assert said == []
