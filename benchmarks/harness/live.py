"""Settings of an engine that runs in this process, changed between requests: one start measures many of them.

Both are values that vLLM, or our draft model, reads anew in every round; no code is replaced. A server is started with
what was chosen, which is measured again.
"""

from typing import Any


def schedule_table(llm: Any) -> list[int]:
    """K by batch size, of an engine with such a schedule: what is written to it holds from the next round on.

    Raises:
        ValueError: if this vLLM keeps its schedule elsewhere.
    """
    core = getattr(llm.llm_engine.engine_core, "engine_core", None)
    table = getattr(getattr(core, "scheduler", None), "dynamic_sd_lookup", None)
    if not isinstance(table, list):
        raise ValueError("expected an engine of this process with a schedule of K by batch size, found no table of it")
    return table


def set_module_steps(llm: Any, module_steps: int) -> None:
    """Of the drafter's lookup, where it is at work on a CPU.

    Raises:
        ValueError: if it is not.
    """
    llm.collective_rpc(_set_module_steps, args=(module_steps,))


def _set_module_steps(worker: Any, module_steps: int) -> None:
    from dataclasses import replace

    from vllm_mtp.serving.lookup_on_host import HostLookup

    lookup = worker.get_draft_model().lookup
    if not isinstance(lookup, HostLookup):
        raise ValueError("expected a drafter with lookup on a CPU")
    lookup.lookup = replace(lookup.lookup, module_steps=module_steps)
