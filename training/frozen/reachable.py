"""A target as other machines find it, and whether they do."""

from pathlib import Path

from vllm_mtp.common.errors import InputError
from vllm_mtp.contract.fingerprint import stored_tensors, stored_weights_sha256


def anywhere(target: str) -> str:
    """A target's folder whatever directory a process runs in; a Hub id as it is."""
    return str(Path(target).resolve()) if Path(target).is_dir() else target


def check_reachable(target: str, revision: str | None, weights_sha256: str) -> None:
    """Refuses a machine on which a target's files are missing or others; those of a Hub id are fetched.

    Args:
        target: folder or Hub id.
        revision: of a Hub id.
        weights_sha256: of the target's files where the command was given (`stored_weights_sha256`).

    Raises:
        InputError: saying which of both.
    """
    next(stored_tensors(target, download=True, revision=revision), None)
    found = stored_weights_sha256(target, revision=revision)
    if found != weights_sha256:
        what = "other weights" if found else "no weights"
        raise InputError(
            "target", f"expected the target at {target} on every node, found {what}: give a Hub id, or shared storage"
        )
