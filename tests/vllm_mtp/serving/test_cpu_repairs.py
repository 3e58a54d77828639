"""The repairs of vLLM's CPU sampler: what is wrong without them, that they put it right, that they touch nothing else.

Catches: temperatures that are uninitialised memory, temperatures cut to integers, an engine that dies of top_k or of a
seed, a seed whose draws depend on how a prompt was read, a repair lost when a second engine of the process registers
vLLM's kernels again, a repair of what is not broken.
"""

import inspect
import logging
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from vllm_mtp.serving import cpu_repairs

pytestmark = pytest.mark.vllm

STEPS = ("_sample", "_bookkeeping_sync")
"""The parts of a step of vLLM's V1 model runner that use a request's generator."""


@pytest.fixture
def stock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """vLLM's rejection sampler module as a worker on the CPU finds it, and as it was before, afterwards."""
    pytest.importorskip("vllm", reason="needs vLLM")
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        pytest.skip("needs vLLM's CPU platform")
    # A platform of vLLM answers None for what it does not have.
    if getattr(current_platform, "register_triton_kernel_overrides", None) is None:
        pytest.skip("this vLLM has no kernel dispatcher")
    from vllm.v1.sample import rejection_sampler
    from vllm.v1.worker.cpu_model_runner import CPUModelRunner

    # An engine of an earlier test in this process has been repaired already.
    for holder, names in (
        (rejection_sampler, ("expand_batch_to_tokens", "apply_sampling_constraints")),
        (CPUModelRunner, STEPS),
    ):
        for name in names:
            monkeypatch.setattr(holder, name, inspect.unwrap(getattr(holder, name)))
    monkeypatch.setattr(cpu_repairs, "_warned", False)
    current_platform.register_triton_kernel_overrides()
    yield rejection_sampler
    current_platform.register_triton_kernel_overrides()


def expanded(rejection_sampler: Any, values: list[float], dtype: torch.dtype) -> Tensor:
    """`values` of three requests with 2, 0 and 3 draft tokens, 0 replaced by 1."""
    ends = torch.tensor([2, 2, 5], dtype=torch.int32)
    result = rejection_sampler.expand_batch_to_tokens(
        torch.tensor(values, dtype=dtype), ends, 5, replace_from=0, replace_to=1
    )
    assert isinstance(result, Tensor)
    return result


def constrained(rejection_sampler: Any, logits: Tensor, num_draft_tokens: int, **request: Any) -> Tensor:
    """`apply_sampling_constraints` for a single request."""
    from dataclasses import fields

    from vllm.v1.sample.metadata import SamplingMetadata

    unset: dict[str, Any] = dict.fromkeys(field.name for field in fields(SamplingMetadata))
    metadata = SamplingMetadata(**(unset | {"all_greedy": False, "all_random": True} | request))
    ends = torch.tensor([num_draft_tokens], dtype=torch.int32)
    result = rejection_sampler.apply_sampling_constraints(logits, ends, metadata)
    assert isinstance(result, Tensor)
    return result


def test_probes_agree_with_what_stock_vllm_does(stock: Any, caplog: pytest.LogCaptureFixture) -> None:
    # Drawn so that no memory left over from elsewhere holds the answer.
    values = (0.5 + torch.rand(3)).tolist()
    expected = torch.tensor([values[0], values[0], values[2], values[2], values[2]])
    expands = torch.equal(expanded(stock, values, torch.float32), expected)
    try:
        constrained(stock, torch.empty(0, 8), 0, temperature=torch.ones(1), top_k=torch.ones(1, dtype=torch.int32))
        passes = True
    except RuntimeError:
        passes = False
    seeds = cpu_repairs.seeds_pass()
    assert cpu_repairs.expansion_is_right() == expands
    assert cpu_repairs.empty_rounds_pass() == passes
    with caplog.at_level(logging.WARNING, logger=cpu_repairs.__name__):
        cpu_repairs.apply_where_needed()
    warnings = " ".join(record.getMessage() for record in caplog.records if record.name == cpu_repairs.__name__)
    assert ("#55005" in warnings) == (not expands)
    assert ("rounds without draft tokens" in warnings) == (not passes)
    assert ("seeds of prompts that are read in parts" in warnings) == (not seeds)
    if expands and passes and seeds:
        pytest.skip("this vLLM has none of the defects: cpu_repairs.py can go once older versions are dropped")


def test_repaired_values_reach_their_draft_tokens(stock: Any) -> None:
    cpu_repairs.apply_where_needed()
    for dtype, values in ((torch.float32, [0.7, 2.0, 0.1]), (torch.int32, [7, 3, 2048]), (torch.int64, [7, 3, 2048])):
        found = expanded(stock, values, dtype)
        assert found.dtype == dtype
        assert torch.equal(found, torch.tensor([values[0]] * 2 + [values[2]] * 3, dtype=dtype))
        greedy = expanded(stock, [0, 0, values[2]], dtype)
        assert torch.equal(greedy, torch.tensor([1] * 2 + [values[2]] * 3, dtype=dtype))


def test_repaired_constraints(stock: Any) -> None:
    cpu_repairs.apply_where_needed()
    request = {"temperature": torch.full((1,), 0.5), "top_k": torch.full((1,), 2, dtype=torch.int32)}
    for more in ({}, {"top_p": torch.full((1,), 0.9)}):
        assert constrained(stock, torch.empty(0, 8), 0, **request, **more).shape == (0, 8)
    logits = torch.tensor([[1.0, 3.0, 2.0], [5.0, 4.0, 6.0]])
    inf = float("inf")
    assert constrained(stock, logits, 2, **request).tolist() == [[-inf, 6.0, 4.0], [10.0, -inf, 12.0]]


def test_a_dropped_token_costs_a_seed_nothing(stock: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A repaired step of three requests with seeds: the first and the last have read a part of their prompts."""
    from vllm.v1.worker.cpu_model_runner import CPUModelRunner

    if cpu_repairs.seeds_pass():
        pytest.skip("this vLLM does not have the defect")
    drawn: list[list[int]] = []

    def draws(runner: Any) -> None:
        drawn.append(sorted(runner.input_batch.generators))
        for generator in runner.input_batch.generators.values():
            torch.rand(1, generator=generator)

    for name in STEPS:
        monkeypatch.setattr(CPUModelRunner, name, draws)
    cpu_repairs._repair_seeds()
    seeds = {request: torch.Generator("cpu").manual_seed(request) for request in range(3)}
    before = {request: generator.get_state() for request, generator in seeds.items()}
    runner = SimpleNamespace(
        discard_request_mask=SimpleNamespace(np=np.array([True, False, True, True])),  # the fourth: of an earlier step
        input_batch=SimpleNamespace(num_reqs=3, generators=dict(seeds)),
    )
    for name in STEPS:
        getattr(CPUModelRunner, name)(runner)
    assert drawn == [[1], [1]]
    assert runner.input_batch.generators == seeds
    unmoved = [request for request, generator in seeds.items() if torch.equal(generator.get_state(), before[request])]
    assert unmoved == [0, 2]


def test_applying_again_changes_nothing_and_warns_once(stock: Any, caplog: pytest.LogCaptureFixture) -> None:
    from vllm.platforms import current_platform

    probes = cpu_repairs.expansion_is_right, cpu_repairs.empty_rounds_pass, cpu_repairs.seeds_pass
    defective = not all(probe() for probe in probes)
    with caplog.at_level(logging.WARNING, logger=cpu_repairs.__name__):
        cpu_repairs.apply_where_needed()
        first = dict(vars(stock))
        cpu_repairs.apply_where_needed()
        assert dict(vars(stock)) == first
        # What the worker of a second engine in this process does before its draft model is built.
        current_platform.register_triton_kernel_overrides()
        cpu_repairs.apply_where_needed()
    assert all(probe() for probe in probes)
    assert sum(record.name == cpu_repairs.__name__ for record in caplog.records) == int(defective)


def test_without_a_working_dispatcher_the_function_is_replaced(stock: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if cpu_repairs.expansion_is_right():
        pytest.skip("this vLLM expands rightly")
    monkeypatch.setattr("vllm.triton_utils.dispatcher.register_kernels", lambda overrides: None)
    cpu_repairs.apply_where_needed()
    assert stock.expand_batch_to_tokens is cpu_repairs._expand_batch_to_tokens
    assert expanded(stock, [0.7, 2.0, 0.0], torch.float32).tolist() == pytest.approx([0.7, 0.7, 1.0, 1.0, 1.0])


def test_repair_that_does_not_take_is_an_error(stock: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # A kernel that copies back what it cut to integers, 0.7 to 0.
    def truncating(x: Tensor, cu_num_tokens: Tensor, num_tokens: int, replace_from: int, replace_to: int) -> Tensor:
        counts = torch.diff(cu_num_tokens, prepend=cu_num_tokens.new_zeros(1))
        return x.masked_fill(x == replace_from, replace_to).long().to(x.dtype).repeat_interleave(counts)

    monkeypatch.setattr(stock, "expand_batch_to_tokens", truncating)
    assert not cpu_repairs.expansion_is_right()
    monkeypatch.setattr(cpu_repairs, "_repair_expansion", lambda: None)
    with pytest.raises(RuntimeError, match=r"temperature, top_k and top_p of draft tokens .* could not be repaired"):
        cpu_repairs.apply_where_needed()


def test_healthy_vllm_is_left_alone(
    stock: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from vllm.v1.worker.cpu_model_runner import CPUModelRunner

    def expand_batch_to_tokens(x: Tensor, ends: Tensor, num_tokens: int, replace_from: int, replace_to: int) -> Tensor:
        rows = [replace_to if value == replace_from else value for value in x.tolist()]
        starts = [0, *ends.tolist()]
        return torch.tensor([v for v, a, b in zip(rows, starts, starts[1:], strict=False) for _ in range(a, b)]).to(x)

    monkeypatch.setattr(stock, "expand_batch_to_tokens", expand_batch_to_tokens)
    monkeypatch.setattr(stock, "apply_sampling_constraints", lambda logits, ends, metadata: logits)
    monkeypatch.setattr(CPUModelRunner, "_bookkeeping_sync", lambda *args: None)
    before = dict(vars(stock)), dict(vars(CPUModelRunner))
    with caplog.at_level(logging.DEBUG):
        cpu_repairs.apply_where_needed()
    assert (dict(vars(stock)), dict(vars(CPUModelRunner))) == before
    assert not caplog.records


def test_other_platforms_are_not_probed(stock: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.platforms import current_platform

    def forbidden() -> bool:
        raise AssertionError("probed")

    monkeypatch.setattr(type(current_platform), "is_cpu", lambda self: False)
    monkeypatch.setattr(cpu_repairs, "expansion_is_right", forbidden)
    cpu_repairs.apply_where_needed()


def test_a_dispatcher_that_fails_does_not_stop_the_repair(stock: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With numba compiled code in the process, as n-gram drafting has, registering a kernel raises AttributeError."""
    if cpu_repairs.expansion_is_right():
        pytest.skip("this vLLM does not have the defect")
    from vllm.triton_utils import dispatcher

    def fail(overrides: object) -> None:
        raise AttributeError("'_lib_fn_wrapper' object has no attribute 'get'")

    with monkeypatch.context() as patch:  # the fixture registers vLLM's kernels again afterwards
        patch.setattr(dispatcher, "register_kernels", fail)
        cpu_repairs.apply_where_needed()
    assert cpu_repairs.expansion_is_right()
