"""`vllm-mtp vocab`: the draft vocabulary, the token ids that a drafter may draft, by how often they occur."""

# Shapes: V vocabulary, J draft vocabulary.

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vllm_mtp.common.errors import InputError
from vllm_mtp.common.files import check_own_file, read_json, write_atomically
from vllm_mtp.contract.fingerprint import tokenizer_sha256
from vllm_mtp.training.data.chat.options import TemplateOptions
from vllm_mtp.training.data.rows import Row
from vllm_mtp.training.data.sources import check_files, read_sources
from vllm_mtp.training.frozen.target import config_and_tokenizer, end_ids

_ROW_LENGTH = 512
"""Row length of text, in tokens."""
PRINTED_SIZES = (1024, 2048, 4096, 8192, 16384, 32768, 65536)


def count_tokens(sources: Sequence[Sequence[Row]], vocab_size: int) -> Tensor:
    """How often each token id occurs where the loss counts, [V] int64."""
    counts_V = torch.zeros(vocab_size, dtype=torch.int64)
    for rows in sources:
        for row in rows:
            counts_V += torch.bincount(row.ids_L[row.counts_L].long(), minlength=vocab_size)
    return counts_V


def choose_draft_ids(counts_V: Tensor, size: int, special_ids: Collection[int]) -> Tensor:
    """The special tokens and the most frequent others, [J] ascending; among equals the lower id.

    Raises:
        ValueError: for a size that does not hold the special tokens, or is larger than the vocabulary.
    """
    special = sorted({token for token in special_ids if 0 <= token < len(counts_V)})
    _check_size(size, len(special), len(counts_V))
    ranked_V = counts_V.clone()
    ranked_V[special] = counts_V.max() + 1
    return ranked_V.argsort(descending=True, stable=True)[:size].sort().values


def _check_size(size: int, num_special: int, vocab_size: int) -> None:
    fewest = max(1, num_special)
    if not fewest <= size <= vocab_size:
        raise InputError("size", f"expected {fewest} (the special tokens) to {vocab_size} (the vocabulary), got {size}")


def coverage(counts_V: Tensor, draft_ids_J: Tensor) -> float:
    """Share of the counted tokens that the draft vocabulary has."""
    return float(counts_V[draft_ids_J].sum() / counts_V.sum().clamp(min=1))


def save_draft_vocab(path: Path, draft_ids_J: Tensor, info: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps({**info, "draft_ids": draft_ids_J.tolist()}) + "\n")


def check_vocab_file(path: Path) -> None:
    """Refuses to write over what is no draft vocabulary.

    Raises:
        InputError: naming the file.
    """
    check_own_file(path, lambda: "draft_ids" in read_json(path), "a draft vocabulary")


def load_draft_vocab(path: Path, vocab_size: int, tokenizer: str) -> Tensor:
    """Target ids of a draft vocabulary, [J] int64, ascending.

    Args:
        path: file of `vllm-mtp vocab`.
        vocab_size: the target's.
        tokenizer: hash of the target's tokenizer; an older file, which has none, is taken as it is.

    Raises:
        ValueError: if the file is none of `vllm-mtp vocab`, or was made for another vocabulary or tokenizer.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        ids_J = torch.tensor(content["draft_ids"], dtype=torch.int64)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError("draft_vocab", f"expected a file of `vllm-mtp vocab`, got {path}: {error}") from error
    if ids_J.ndim != 1 or not len(ids_J) or (ids_J.diff() <= 0).any() or ids_J[0] < 0 or ids_J[-1] >= vocab_size:
        raise InputError("draft_vocab", f"expected ascending token ids below {vocab_size} in {path}; make it anew")
    if content.get("tokenizer_sha256", tokenizer) != tokenizer:
        raise InputError("draft_vocab", f"{path} was made for another tokenizer than the target's; make it anew")
    return ids_J


def make_draft_vocab(*, output: Path, **asked: Any) -> int:
    """Writes the draft vocabulary that `count_draft_vocab` chooses, with the same arguments; returns 0."""
    draft_ids_J, info = count_draft_vocab(**asked)
    save_draft_vocab(output, draft_ids_J, info)
    return 0


def count_draft_vocab(
    *,
    target: str,
    data: Sequence[Path],
    size: int,
    max_tokens: int,
    template: TemplateOptions | None = None,
    skip_bad: bool = False,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> tuple[Tensor, dict[str, Any]]:
    """Counts, and prints the coverage of several sizes.

    Every twentieth row is not counted: what the printed coverage is of, so that it holds for other text too. Of
    conversations the answers are counted.

    Returns:
        Target ids of the draft vocabulary, [J] int64, ascending, and what is kept beside them.

    Raises:
        ValueError: for data, a target or a size that cannot be used.
    """
    check_files(data)
    config, tokenizer = config_and_tokenizer(target, revision=revision, trust_remote_code=trust_remote_code)
    vocab_size = config.get_text_config().vocab_size
    if max_tokens < 1:
        raise InputError("max_tokens", f"expected at least 1, got {max_tokens}")
    # The end of a turn is not always special to the tokenizer, and may be missing where answers were cut off.
    special_ids = {*tokenizer.all_special_ids, *end_ids(target, config, tokenizer, revision=revision)}
    special_ids = {token for token in special_ids if token < vocab_size}
    _check_size(size, len(special_ids), vocab_size)
    sources = read_sources(
        data,
        tokenizer,
        _ROW_LENGTH,
        max_tokens,
        vocab_size=vocab_size,
        loss_on="answers",
        cut_conversations=False,
        template=template,
        skip_bad=skip_bad,
    )
    counts_V = count_tokens([[row for i, row in enumerate(source.rows) if i % 20] for source in sources], vocab_size)
    if not counts_V.any():
        raise InputError("data", f"expected text or answers to count, found none in {'; '.join(map(str, sources))}")
    other_V = count_tokens([source.rows[::20] for source in sources], vocab_size)
    draft_ids_J = choose_draft_ids(counts_V, size, special_ids)
    print(*sources, sep="\n")
    print(f"{int(counts_V.sum()):,} tokens counted, {int((counts_V > 0).sum()):,} of {vocab_size:,} ids occur")
    sizes = {n for n in PRINTED_SIZES if max(1, len(special_ids)) <= n < vocab_size} | {size}
    for num_ids in sorted(sizes):
        share = coverage(other_V, choose_draft_ids(counts_V, num_ids, special_ids))
        print(f"{num_ids:>8,} ids cover {share:.2%} of other text{'  <- taken' if num_ids == size else ''}")
    unseen = draft_ids_J[counts_V[draft_ids_J] == 0].tolist()
    num_blind = sum(token not in special_ids for token in unseen)
    if num_blind:
        print(
            f"{num_blind:,} of these ids never occur and are merely the lowest: count more text, or take a smaller size"
        )
    info = {
        "size": size,
        "tokenizer_sha256": tokenizer_sha256(tokenizer.get_vocab()),
        "coverage": round(coverage(other_V, draft_ids_J), 5),
        "num_tokens": int(counts_V.sum()),
    }
    return draft_ids_J, info
