"""What to type to serve what was chosen. Pure functions."""

import shlex
from collections.abc import Mapping
from typing import Any

from vllm_mtp.benchmarks.harness.method import Method
from vllm_mtp.benchmarks.serving.server import flags
from vllm_mtp.common.flags import flag_of
from vllm_mtp.contract.lookup import Lookup


def speculative_config(method: Method, draft: str) -> dict[str, Any] | None:
    """For `vllm serve --speculative-config`; None for no speculation."""
    config = method.speculative_config(None)
    return None if config is None else {"method": "mtp"} | config | {"model": draft}


def serve_command(method: Method, *, target: str, draft: str, engine_args: Mapping[str, Any]) -> str:
    """The line of `vllm serve`.

    Args:
        method: what was chosen.
        target: folder or Hub id.
        draft: the drafter's folder.
        engine_args: what else the engines were given that a server must be given too.
    """
    config = speculative_config(method, draft)
    speculative = {} if config is None else {"speculative_config": config}
    return shlex.join(["vllm", "serve", *flags({"model": target, **engine_args, **speculative})])


def lookup_command(method: Method, own: Lookup | None, draft: str) -> str | None:
    """What changes the drafter's config.json beforehand; None where it is right as it is."""
    wanted = method.lookup if isinstance(method.lookup, Lookup) else None
    if method.name == "none" or wanted == own:
        return None
    words = ["--off"] if wanted is None else [w for name, v in wanted.fields().items() for w in (flag_of(name), str(v))]
    return shlex.join(["vllm-mtp", "lookup", draft, *words])
