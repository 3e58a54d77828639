"""The folder that vLLM loads for a method: the drafter's own, or a variant of it with other settings of lookup.

And the check that it is a drafter of the target, before anything is measured.
"""

import shutil
from pathlib import Path

from vllm_mtp.benchmarks.harness.method import DRAFTER, OFF, Method
from vllm_mtp.contract.checkpoint import read_config, write_lookup
from vllm_mtp.contract.lookup import Lookup
from vllm_mtp.contract.tensors import WEIGHTS_FILE


def lookup_of(draft: Path) -> Lookup | None:
    """What a drafter's config.json says."""
    return Lookup.of(read_config(draft).get("lookup"))


def draft_folder(method: Method, draft: Path, output: Path) -> Path:
    """Made anew where it is not the drafter's own: config.json rewritten, the weights linked or, if need be, copied.

    Args:
        method: has a folder of its own, so that none is rewritten while another engine reads it.
        draft: the drafter's own.
        output: where variants lie.
    """
    wanted = None if method.lookup == OFF else method.lookup
    if wanted == DRAFTER or wanted == lookup_of(draft):
        return draft
    assert not isinstance(wanted, str)
    variant = output / f"draft-{method.slug}"
    variant.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(draft / "config.json", variant / "config.json")
    weights = variant / WEIGHTS_FILE
    weights.unlink(missing_ok=True)
    try:
        weights.symlink_to((draft / WEIGHTS_FILE).resolve())
    except OSError:  # a file system without links
        shutil.copyfile(draft / WEIGHTS_FILE, weights)
    write_lookup(variant, wanted)
    return variant
