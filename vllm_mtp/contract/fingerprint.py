"""Which target a drafter belongs to: hashes of its tokenizer and of a few rows of its weights."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

_NUM_FINGERPRINT_ROWS = 4
EMBEDDING_NAMES = (
    "embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight", "tok_embeddings.weight",
    "embeddings.weight", "word_embedding.weight",
)  # fmt: skip
"""Ends of the names under which architectures store their embedding."""
HEAD_NAMES = ("lm_head.weight", "embed_out.weight", "output_layer.weight")
"""Ends of the names under which they store their LM head, where it is not the embedding."""


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


def stored_rows(
    model: str,
    suffix: str | tuple[str, ...],
    vocab_size: int,
    *,
    download: bool = False,
    revision: str | None = None,
    cache_dir: str | None = None,
) -> "Tensor | None":
    """The rows `fingerprint_rows` of a target's tensor, [rows, H], read from its safetensors without loading them.

    Args:
        model: folder or Hub id.
        suffix: end of the tensor's name, or its possible ends; of several such tensors the one of the shortest name,
            since MTP layers of the target's own repeat its embedding.
        vocab_size: V.
        download: fetch the weights of a Hub id that is not in the cache; otherwise there are none.
        revision, cache_dir: of a Hub id.

    Returns:
        The rows, or None where no such tensor of V rows can be read.
    """
    import torch
    from safetensors import SafetensorError

    try:
        table = stored_table(model, suffix, vocab_size, download=download, revision=revision, cache_dir=cache_dir)
        return None if table is None else torch.cat([table[row : row + 1] for row in fingerprint_rows(vocab_size)])
    except SafetensorError:  # a damaged file, or a pointer to one
        return None


def stored_table(model: str, suffix: str | tuple[str, ...], vocab_size: int, **source: Any) -> Any:
    """The slice of a target's tensor that `stored_rows` reads rows of; None where there is none.

    Raises:
        SafetensorError: for a damaged file.
    """
    found = {
        name: table
        for name, table in stored_tensors(model, **source)
        if name.endswith(suffix) and len(table.get_shape()) == 2 and table.get_shape()[0] >= vocab_size
    }
    return found[min(found, key=len)] if found else None


def stored_weights_sha256(model: str, *, revision: str | None = None) -> str:
    """Hash over one row of every tensor of a target; "" where it has no safetensors that can be read.

    Unlike the fingerprint, which a drafter's config.json has of its target, it knows a fine-tuned or quantized copy
    whose embedding and head were left as they were.

    Args:
        model: folder, or Hub id that is in the cache.
        revision: of a Hub id.
    """
    import torch
    from safetensors import SafetensorError

    digest = hashlib.sha256()
    found = False
    try:
        for name, table in stored_tensors(model, revision=revision):
            found = True
            shape = table.get_shape()
            row = table[shape[0] // 2 : shape[0] // 2 + 1] if shape else table[...]
            digest.update(f"{name} {shape}".encode())
            digest.update(row.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    except SafetensorError:
        return ""
    return digest.hexdigest() if found else ""


def stored_tensors(
    model: str, *, download: bool = False, revision: str | None = None, cache_dir: str | None = None
) -> "Iterator[tuple[str, Any]]":
    """Names and slices of all tensors in a target's safetensors."""
    from huggingface_hub import snapshot_download
    from safetensors import safe_open

    folder = Path(model)
    if not folder.is_dir():
        try:
            # What transformers and vLLM fetch: without patterns a snapshot is incomplete for want of a README, and
            # Mistral's repositories hold their weights a second time.
            found = snapshot_download(
                model,
                revision=revision,
                cache_dir=cache_dir,
                allow_patterns=["*.safetensors"],
                ignore_patterns=["*/*", "consolidated*"],
                local_files_only=not download,
            )
        except (OSError, ValueError):
            return
        folder = Path(found)
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(str(path), framework="pt") as file:
            for name in file.keys():
                yield name, file.get_slice(name)
