"""Repairs vLLM's CPU build where it samples wrongly or dies of a request, whichever drafter is used.

The one exception to "register, never patch": a drafter that promises the target's own output cannot keep silent about a
sampler that breaks the promise. Three defects are known, in vLLM 0.26 to 0.33 on a CPU:

1. `expand_kernel`, which gives every draft token its request's temperature, top_k and top_p, writes float32 and int32
   values into a temporary copy, so that draft tokens are verified with uninitialized memory:
   https://github.com/vllm-project/vllm/issues/55005.
2. `apply_sampling_constraints` raises if a request asks for top_k in a round without any draft token, and the engine
   dies with it. Such a round ends most generations.
3. Where a prompt is read in parts, a token is drawn after each part and dropped, and vLLM winds the generator of a
   request with a seed back, which a CPU's generator cannot do. The engine dies with it, with speculation and without.
   Seen elsewhere: https://github.com/RBLN-SW/vllm-rbln/pull/1025.

Greedy requests use none of them. Each defect is looked for by what the functions do, not by version, in the process
that samples, after vLLM has installed its CPU kernels. Where there is no defect, nothing is touched.
"""

# Shapes: B requests, T draft tokens of all requests, V vocabulary.

import functools
import logging
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

logger = logging.getLogger(__name__)

_EXPAND_KERNEL = "vllm.v1.sample.rejection_sampler.expand_kernel"
_warned = False


def apply_where_needed() -> None:
    """Probes the defects and repairs those that are there. Does nothing on other platforms than the CPU.

    To be called after vLLM has registered its CPU kernels (in a worker, when the draft model is built). vLLM registers
    them again for every engine of a process, so that every call probes; a repair is announced by one warning per
    process.

    Raises:
        RuntimeError: if a defect is still there after its repair.
    """
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    repaired = []
    for what, is_right, repair in (
        (
            "temperature, top_k and top_p of draft tokens (vllm-project/vllm#55005)",
            expansion_is_right,
            _repair_expansion,
        ),
        ("top_k in rounds without draft tokens", empty_rounds_pass, _repair_empty_rounds),
        ("seeds of prompts that are read in parts", seeds_pass, _repair_seeds),
    ):
        if is_right():
            continue
        repair()
        if not is_right():
            raise RuntimeError(
                f"This vLLM's CPU build is wrong about {what} and could not be repaired: with a drafter, sampled "
                "output would not be the target's. Use another version of vLLM, or serve without speculative_config."
            )
        repaired.append(what)
    if repaired:
        _warn_once(" and ".join(repaired))


def expansion_is_right() -> bool:
    """Whether values of requests reach their draft tokens unchanged: float32 (temperature, top_p), int32 (top_k).

    The values differ from call to call: a kernel that writes nothing returns whatever the memory held before, which
    must not happen to be the right answer of an earlier call.
    """
    from vllm.v1.sample import rejection_sampler

    if not hasattr(rejection_sampler, "expand_batch_to_tokens"):
        return True
    fraction = random.SystemRandom().random()
    temperature_B = torch.tensor([0.5 + fraction, 0.7, 0.0, 2.0 - fraction], dtype=torch.float32, device="cpu")
    top_k_B = torch.tensor([5 + int(fraction * 2**20), 7, 0, 2048], dtype=torch.int32, device="cpu")
    ends_B = torch.tensor([2, 2, 3, 6], dtype=torch.int32, device="cpu")  # 2, 0, 1 and 3 draft tokens
    request_T = torch.tensor([0, 0, 2, 3, 3, 3], device="cpu")
    for values_B in (temperature_B, top_k_B):
        try:
            found_T = rejection_sampler.expand_batch_to_tokens(values_B, ends_B, 6, replace_from=0, replace_to=1)
        except Exception:  # whatever a broken kernel raises
            return False
        if not torch.equal(found_T, values_B.masked_fill(values_B == 0, 1)[request_T]):
            return False
    return True


def empty_rounds_pass() -> bool:
    """Whether a round in which no request has a draft token gets through top_k, alone and with top_p."""
    from dataclasses import fields

    from vllm.v1.sample import rejection_sampler
    from vllm.v1.sample.metadata import SamplingMetadata

    if not hasattr(rejection_sampler, "apply_sampling_constraints"):
        return True
    unset: dict[str, Any] = dict.fromkeys(field.name for field in fields(SamplingMetadata))
    one = torch.ones(1, dtype=torch.float32, device="cpu")
    for top_p in (None, one / 2):
        request = {"all_greedy": False, "all_random": True, "temperature": one, "top_k": one.int(), "top_p": top_p}
        try:
            rejection_sampler.apply_sampling_constraints(
                torch.empty(0, 8, dtype=torch.float32, device="cpu"),
                torch.zeros(1, dtype=torch.int32, device="cpu"),
                SamplingMetadata(**(unset | request)),
            )
        except Exception:  # RuntimeError or IndexError, from a reduction over nothing; a broken kernel's own
            return False
    return True


def seeds_pass() -> bool:
    """Whether a request with a seed gets through a step that read a part of its prompt, by the V1 model runner."""
    from vllm.v1.worker.cpu_model_runner import CPUModelRunner

    if not hasattr(CPUModelRunner, "_bookkeeping_sync"):
        return True
    # What is read of a runner until the generators are dealt with; all that comes later fails for want of the rest.
    runner = SimpleNamespace(
        use_async_scheduling=False,
        discard_request_mask=SimpleNamespace(np=np.ones(1, dtype=bool)),
        input_batch=SimpleNamespace(num_reqs=1, generators={0: torch.Generator("cpu")}),
        _get_nans_in_logits=lambda logits: {},
    )
    try:
        CPUModelRunner._bookkeeping_sync(runner, *[None] * 5)
    except RuntimeError:  # CPU Generator does not use offset
        return False
    except Exception:
        return True
    return True


def _repair_expansion() -> None:
    """Registers a right kernel with vLLM's dispatcher; where that does not help, replaces the function around it."""
    from vllm.v1.sample import rejection_sampler

    try:  # not in vLLM 0.28 and before, which assign their CPU kernels to the module
        from vllm.triton_utils.dispatcher import register_kernels

        register_kernels({_EXPAND_KERNEL: _expand_kernel})
    except (AttributeError, ImportError, ValueError):
        pass  # AttributeError: the dispatcher looks into every object of every module, and trips over numba's
    if not expansion_is_right():
        rejection_sampler.expand_batch_to_tokens = _expand_batch_to_tokens


def _expand_kernel(
    output_ptr: Tensor,
    input_ptr: Tensor,
    cu_num_tokens_ptr: Tensor,
    replace_from: int,
    replace_to: int,
    MAX_NUM_TOKENS: int,
) -> None:
    """vLLM's `expand_kernel` in PyTorch; the parameters bear its names because the dispatcher binds them by name."""
    expanded_T = _expand_batch_to_tokens(
        input_ptr, cu_num_tokens_ptr, output_ptr.shape[0], replace_from=replace_from, replace_to=replace_to
    )
    output_ptr.copy_(expanded_T)


def _expand_batch_to_tokens(
    x: Tensor, cu_num_tokens: Tensor, num_tokens: int, replace_from: int = 0, replace_to: int = 0
) -> Tensor:
    """Repeats x[b] for each of request b's draft tokens, `replace_to` in place of `replace_from`; keeps x's dtype."""
    num_tokens_B = torch.diff(cu_num_tokens, prepend=cu_num_tokens.new_zeros(1))
    return x.masked_fill(x == replace_from, replace_to).repeat_interleave(num_tokens_B, output_size=num_tokens)


def _repair_empty_rounds() -> None:
    """Lets `apply_sampling_constraints` return logits that have no rows as they are."""
    from vllm.v1.sample import rejection_sampler

    stock = rejection_sampler.apply_sampling_constraints

    @functools.wraps(stock)
    def guarded(logits: Tensor, *args: Any, **kwargs: Any) -> Any:
        return stock(logits, *args, **kwargs) if logits.shape[0] else logits

    rejection_sampler.apply_sampling_constraints = guarded


def _repair_seeds() -> None:
    """Keeps the generators of requests whose token is dropped away from the steps that would use them.

    So a generator draws for the tokens that count alone, however many parts the prompt was read in.
    """
    from vllm.v1.worker.cpu_model_runner import CPUModelRunner

    def guarded(stock: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(stock)
        def step(runner: Any, *args: Any, **kwargs: Any) -> Any:
            with _without_generators_of_parts(runner):
                return stock(runner, *args, **kwargs)

        return step

    for name in ("_sample", "_bookkeeping_sync"):
        setattr(CPUModelRunner, name, guarded(getattr(CPUModelRunner, name)))


@contextmanager
def _without_generators_of_parts(runner: Any) -> Iterator[None]:
    batch = runner.input_batch
    dropped = np.nonzero(runner.discard_request_mask.np[: batch.num_reqs])[0].tolist()
    held = {request: batch.generators.pop(request) for request in dropped if request in batch.generators}
    try:
        yield
    finally:
        batch.generators.update(held)


def _warn_once(what: str) -> None:
    global _warned
    if not _warned:
        logger.warning("vLLM's CPU build is wrong about %s, with any kind of drafting: repaired in this process.", what)
    _warned = True
