"""A finished drafter with another draft vocabulary: its weights as they are, other rows of the target's head.

The module gives a hidden state; which tokens are drafted from it is decided by the rows of the head alone. So a drafter
that was trained on the whole vocabulary serves every smaller one, and one that was trained on a cut head the whole.
"""

# Shapes: J draft vocabulary.

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from vllm_mtp.common.errors import InputError
from vllm_mtp.common.files import read_json, write_atomically
from vllm_mtp.contract.checkpoint import load_draft, save_draft
from vllm_mtp.contract.config import MTPConfig
from vllm_mtp.contract.tensors import D2T, d2t_of
from vllm_mtp.training.export import CURVE_FILE, model_card
from vllm_mtp.training.frozen.pair import load_draft_of
from vllm_mtp.training.record import RUN_INFO


def check_draft(draft: Path, target: str, output: Path, **source: Any) -> None:
    """Refuses what cannot be cut, before anything is counted.

    Args:
        draft: folder of the drafter.
        target: folder or Hub id of its target.
        output: folder of the one to be made.
        source: revision and trust_remote_code of the target.

    Raises:
        InputError: for a folder that is no drafter's, a drafter of another target, or an output that has something.
    """
    load_draft_of(target, draft, **source)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputError("output", f"expected no such folder or an empty one for the drafter, got {output}")


def cut_draft(draft: Path, draft_ids_J: Tensor | None, output: Path, about: dict[str, Any]) -> None:
    """Writes the drafter with these token ids as its draft vocabulary.

    Args:
        draft: folder of a finished drafter.
        draft_ids_J: ascending ids of the target; None: all of them.
        output: folder.
        about: where they come from, for run_info.json.

    Raises:
        ValueError: for a folder that is no drafter's, or ids that are none of the target's.
        OSError: for a full disk or a read-only folder.
    """
    config, tensors = load_draft(draft)
    tensors.pop(D2T, None)
    size = None
    if draft_ids_J is not None:
        size = len(draft_ids_J)
        tensors[D2T] = d2t_of(draft_ids_J)
    fields = config.contract() | {"draft_vocab_size": size}
    cut: MTPConfig = MTPConfig.from_dict(fields, name_or_path=str(output))
    save_draft(output, cut, tensors)
    if (draft / CURVE_FILE).is_file():
        write_atomically(output / CURVE_FILE, (draft / CURVE_FILE).read_text(encoding="utf-8"))
    if (draft / RUN_INFO).is_file():
        info = read_json(draft / RUN_INFO)
        info |= {"draft_vocab_size": size, "cut_after_training": about | {"trained_on": info.get("draft_vocab_size")}}
        write_atomically(output / "README.md", model_card(info))
        write_atomically(output / RUN_INFO, json.dumps(info, indent=1) + "\n")
