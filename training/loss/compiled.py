"""torch.compile where it pays: both forms are timed on the real sizes, and the faster one is used."""

import os
import shutil
import time
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch

from vllm_mtp.common.errors import in_a_line

_MIN_SECONDS = 90.0
Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def faster_of_eager_and_compiled(
    function: Callable[Parameters, Result], example: tuple[Any, ...], num_calls: int
) -> tuple[Callable[Parameters, Result], str]:
    """The function or its compiled form, whichever is faster on the example.

    Compiling takes from seconds to a minute, so that it is not tried where all calls together take less than that.

    Args:
        function: a function of tensors.
        example: arguments of the shapes that it will be called with.
        num_calls: how often it will be called.

    Returns:
        What to call, and one line that says why.
    """
    eager_seconds = _seconds(function, example)
    eager = f"eager, {1000 * eager_seconds:.1f} ms"
    if eager_seconds * num_calls < _MIN_SECONDS:
        return function, eager
    on_cpu = all(value.device.type == "cpu" for value in example if isinstance(value, torch.Tensor))
    if on_cpu and not has_cpp_compiler():
        return function, f"{eager}: torch.compile needs a C++ compiler, found none"
    compiled: Callable[Parameters, Result] = torch.compile(function, dynamic=False)
    try:
        compiled_seconds = _seconds(compiled, example)
    except Exception as error:  # whatever the compiler of this machine fails with, eager is right
        return function, f"{eager}: torch.compile failed ({in_a_line(error)})"
    if compiled_seconds >= eager_seconds:
        return function, f"{eager}, compiled {1000 * compiled_seconds:.1f} ms"
    return compiled, f"compiled, {1000 * compiled_seconds:.1f} ms, eager {1000 * eager_seconds:.1f} ms"


def compiler_fault(device: torch.device) -> str:
    """Why torch.compile cannot be used on a device; empty where something small was compiled, both ways."""
    if device.type == "cpu" and not has_cpp_compiler():
        return "torch.compile needs a C++ compiler, found none"
    try:
        x = torch.ones(8, device=device, requires_grad=True)
        torch.compile(torch.sin)(x).sum().backward()
    except Exception as error:  # of any kind
        return f"torch.compile failed ({in_a_line(error)})"
    return ""


def has_cpp_compiler() -> bool:
    """Whether torch.compile can build what it generates for a CPU."""
    return shutil.which(os.environ.get("CXX", "g++")) is not None


def _seconds(function: Callable[..., Any], example: tuple[Any, ...]) -> float:
    seconds = []
    for _ in range(4):  # the first one compiles or warms up
        start = time.perf_counter()
        function(*example)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])
