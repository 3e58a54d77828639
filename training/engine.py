"""A vLLM engine for the time that a command needs it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from vllm_mtp.common.engine_options import EngineOptions


@contextmanager
def vllm_engine(target: str, options: EngineOptions, **decided: Any) -> Iterator[Any]:
    """`vllm.LLM`, shut down in the end.

    Args:
        target: folder or Hub id.
        options: what the user says of the engine.
        decided: what the command says of it, further arguments of `vllm.LLM`.

    Raises:
        ValueError: if there is no vLLM, or it does not start.
    """
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "4")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    try:
        from vllm import LLM
    except ImportError as error:
        raise ValueError("expected vLLM in this environment, found none (`make setup`, or pip install vllm)") from error
    if torch.cuda.is_available():  # asked before vLLM was imported, it leaves CUDA unusable in a forked worker
        os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
    try:
        llm = LLM(model=target, enforce_eager=not torch.cuda.is_available(), **decided, **options.engine_args())
    except Exception as error:  # vLLM's, PyTorch's and those of the target's code have no common class
        raise ValueError(f"vLLM does not start with {target}: {type(error).__name__}: {_reason(error)}") from error
    try:
        yield llm
    finally:
        llm.llm_engine.engine_core.shutdown()


def _reason(error: Exception) -> str:
    """What an error says, in one line; of a config that vLLM's pydantic refuses, what is wrong with it."""
    from pydantic import ValidationError

    if isinstance(error, ValidationError):
        return "; ".join(found["msg"] for found in error.errors())
    return next(iter(str(error).strip().splitlines()), "")
