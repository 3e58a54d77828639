"""Which target a drafter belongs to: hashes of its tokenizer and of a few rows of its weights."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

_NUM_FINGERPRINT_ROWS = 4


def tokenizer_sha256(vocabulary: Mapping[str, int]) -> str:
    """Hash of a tokenizer's (token, id) pairs; saving the tokenizer again does not change it."""
    return hashlib.sha256(json.dumps(sorted(vocabulary.items())).encode()).hexdigest()


def fingerprint_rows(vocab_size: int) -> list[int]:
    """The rows of embedding and head that stand for all weights of a target: evenly spaced, first and last included."""
    return [round(i * (vocab_size - 1) / (_NUM_FINGERPRINT_ROWS - 1)) for i in range(_NUM_FINGERPRINT_ROWS)]


def weights_sha256(embedding_rows: "Tensor", head_rows: "Tensor") -> str:
    """Hash of the rows `fingerprint_rows` of the target's embedding and head, [rows, H] each, rounded to bfloat16."""
    import torch

    digest = hashlib.sha256()
    for rows in (embedding_rows, head_rows):
        digest.update(rows.detach().to("cpu", torch.bfloat16).contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def target_fingerprint(
    *,
    name: str,
    architecture: str,
    hidden_size: int,
    vocab_size: int,
    vocabulary: Mapping[str, int],
    embedding_RD: "Tensor",
    head_RD: "Tensor",
) -> dict[str, Any]:
    """What identifies the target that a drafter belongs to; stored in config.json, compared when it is served.

    `embedding_RD` and `head_RD` are the rows `fingerprint_rows` of embedding and head.
    """
    return {
        "name": name,
        "architecture": architecture,
        "hidden_size": hidden_size,
        "vocab_size": vocab_size,
        "tokenizer_sha256": tokenizer_sha256(vocabulary),
        "weights_sha256": weights_sha256(embedding_RD, head_RD),
    }


def stored_rows(model: str, suffix: str, vocab_size: int) -> "Tensor | None":
    """The rows `fingerprint_rows` of a target's tensor, [rows, H], read from its safetensors without loading them.

    Args:
        model: folder, or Hub id that is in the cache.
        suffix: end of the tensor's name, such as "embed_tokens.weight".
        vocab_size: V.

    Returns:
        The rows, or None where no such tensor can be read.
    """
    import torch
    from huggingface_hub import snapshot_download
    from safetensors import safe_open

    try:
        folder = Path(model) if Path(model).is_dir() else Path(snapshot_download(model, local_files_only=True))
    except (OSError, ValueError):
        return None
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(str(path), framework="pt") as file:
            for name in file.keys():
                if name.endswith(suffix):
                    table = file.get_slice(name)
                    return torch.cat([table[row : row + 1] for row in fingerprint_rows(vocab_size)])
    return None
