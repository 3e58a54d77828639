"""The operators of this folder as torch sees them: `torch.ops.vllm_mtp.*`, one schema with two implementations each.

The arguments of an operator are one NamedTuple, which its implementations take: the schema is read from it.

An operator is registered through `torch.library.Library` (define and impl: a call costs a few microseconds, where
`custom_op` takes tens), with a fake for tracing and a backward for autograd, so that torch.compile and CUDA graphs see
one node. Which implementation runs is decided at the first call for a kind of device, and kept:

    CUDA (ROCm too)   the Triton kernels; the reference, with a warning that says why, where Triton cannot be imported
    CPU               the reference; the Triton kernels under TRITON_INTERPRET=1

    VLLM_MTP_KERNELS=reference    the reference on every device
    VLLM_MTP_KERNELS=triton       the Triton kernels, or an error that says what is missing

Either runs with the tensors' device as the current one, and without autocast: dtypes are what the fake says, and logits
that are promised in float32 are in float32.

Registering imports no Triton: an implementation is named by its module, which is imported when it is first needed.
"""

import functools
import importlib
import inspect
import os
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar, get_type_hints

import torch

CHOICE = "VLLM_MTP_KERNELS"
_CHOICES = ("reference", "triton")
_LIBRARY = torch.library.Library("vllm_mtp", "FRAGMENT")
Arguments = TypeVar("Arguments", bound=tuple[Any, ...])
Result = TypeVar("Result")


def register(
    name: str,
    reference: Callable[[Arguments], Result],
    *,
    triton: str,
    fake: Callable[[Arguments], Result],
    setup_context: Callable[..., None] | None = None,
    backward: Callable[..., Any] | None = None,
) -> Callable[[Arguments], Result]:
    """Defines torch.ops.vllm_mtp.NAME.

    Args:
        name: of the operator.
        reference: plain PyTorch, any device. Its first parameter is a NamedTuple of the operator's arguments, its
            result a tensor or a NamedTuple of tensors; the annotations are the operator's schema.
        triton: the same on Triton, "module:function" of a module below vllm_mtp.kernels.
        fake: results of the right shape, dtype and device, without values.
        setup_context: saves for backward what it needs; `torch.library.register_autograd`.
        backward: gradients of all arguments; None where the operator is not differentiable.

    Returns:
        The operator, to be called as the reference is.
    """
    arguments, result = _annotations(reference)
    has_fields = hasattr(result, "_fields")

    def plainly(implementation: Callable[[Arguments], Any], args: Sequence[Any]) -> Any:
        found = implementation(arguments(*args))
        return tuple(found) if has_fields else found

    def run_on(device_type: str) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            implementation = _implementation(name, reference, triton, device_type)
            with _on_their_device(device_type, args), _without_autocast(device_type):
                return plainly(implementation, args)

        return run

    _LIBRARY.define(name + schema(reference))
    for key in ("CPU", "CUDA"):
        _LIBRARY.impl(name, run_on(key.lower()), key)
    torch.library.register_fake(f"vllm_mtp::{name}", lambda *args: plainly(fake, args), lib=_LIBRARY)
    if backward is not None:
        torch.library.register_autograd(f"vllm_mtp::{name}", backward, setup_context=setup_context, lib=_LIBRARY)
    operator = getattr(torch.ops.vllm_mtp, name).default

    def call(given: Arguments) -> Result:
        found = operator(*given)
        return result(*found) if has_fields else found  # type: ignore[no-any-return]

    return call


def schema(reference: Callable[..., Any]) -> str:
    """The arguments and results of an operator as torch writes them, "(Tensor x_TD, float eps) -> Tensor"."""
    arguments, result = _annotations(reference)
    results = tuple[tuple(_fields(result).values())] if hasattr(result, "_fields") else result  # type: ignore[misc]
    prototype: Any = lambda: None  # noqa: E731
    prototype.__signature__ = inspect.Signature(
        [
            inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=kind)
            for name, kind in _fields(arguments).items()
        ],
        return_annotation=results,
    )
    return torch.library.infer_schema(prototype, mutates_args=())


def _annotations(reference: Callable[..., Any]) -> tuple[Any, Any]:
    """What a reference takes and what it returns."""
    parameter = next(iter(inspect.signature(reference).parameters))
    hints = get_type_hints(reference)
    return hints[parameter], hints["return"]


def _fields(kind: Any) -> dict[str, Any]:
    return {name: get_type_hints(kind)[name] for name in kind._fields}


def _on_their_device(device_type: str, args: Sequence[Any]) -> AbstractContextManager[Any]:
    """Triton launches on the current device, which need not be that of the tensors."""
    if device_type == "cpu":
        return nullcontext()
    return torch.cuda.device(next(arg for arg in args if isinstance(arg, torch.Tensor)).device)


def _without_autocast(device_type: str) -> AbstractContextManager[Any]:
    if not torch.is_autocast_enabled(device_type):
        return nullcontext()
    return torch.autocast(device_type, enabled=False)


@functools.cache
def uses_triton(device_type: str) -> bool:
    """Whether operators on this kind of device run the Triton kernels.

    Raises:
        ValueError: if VLLM_MTP_KERNELS has another value than those above, or asks for what cannot run here.
    """
    choice = os.environ.get(CHOICE, "")
    if choice not in ("", *_CHOICES):
        raise ValueError(f"{CHOICE}: expected {' or '.join(_CHOICES)}, or nothing, got {choice!r}")
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if choice == "reference" or (not choice and device_type == "cpu" and not interpreted):
        return False
    try:
        importlib.import_module("triton")
    except ImportError as error:
        if choice:
            raise ValueError(
                f"{CHOICE}=triton: expected Triton, got {error}. Install it, or unset {CHOICE}."
            ) from error
        warnings.warn(f"vllm_mtp runs its kernels' plain PyTorch twins, which are slower: {error}", stacklevel=2)
        return False
    if device_type == "cpu" and not interpreted:
        raise ValueError(
            f"{CHOICE}=triton: expected tensors on a GPU, got tensors on the CPU. Unset {CHOICE}, or set "
            "TRITON_INTERPRET=1 to test the kernels in Triton's interpreter."
        )
    return True


@functools.cache
def _implementation(name: str, reference: Callable[..., Any], triton: str, device_type: str) -> Callable[..., Any]:
    if not uses_triton(device_type):
        return reference
    module, function = triton.split(":")
    found: Callable[..., Any] = getattr(importlib.import_module(f"vllm_mtp.kernels.{module}"), function)
    return found


def forget_choice() -> None:
    """Decides anew at the next call: for tests that change the environment."""
    uses_triton.cache_clear()
    _implementation.cache_clear()
