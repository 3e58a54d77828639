"""Drafter and target: refused in the same words wherever they meet, and contexts beyond the training."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.drafts import small_config
from vllm_mtp.contract.fingerprint import tokenizer_sha256
from vllm_mtp.contract.pair import beyond_training, why_another_target, why_not_served

TOKENS = {"a": 0, "b": 1}
OWN = {"target": "tiny", "hidden_size": 16, "vocab_size": 50, "vocabulary": TOKENS}


def test_its_own_target_is_not_refused() -> None:
    fingerprint = {"name": "own", "tokenizer_sha256": tokenizer_sha256(TOKENS)}
    assert why_another_target(small_config(target_fingerprint=fingerprint), **OWN) is None
    assert why_another_target(small_config(), **OWN) is None, "without a fingerprint the shape decides"
    # What serving says when a tokenizer has a token more of no meaning, and what cannot be read.
    for vocabulary, known in ((TOKENS | {"c": 2}, {}), (None, fingerprint)):
        config = small_config(target_fingerprint=known)
        assert why_another_target(config, **OWN | {"vocabulary": vocabulary}) is None


@pytest.mark.parametrize(
    ("other", "fault"),
    [
        ({"hidden_size": 32}, "hidden_size 16, the target has 32"),
        ({"vocab_size": 51}, "vocab_size 50, the target has 51"),
        ({"vocabulary": {"a": 1, "b": 0}}, "tokenizer [0-9a-f]{12}"),
    ],
)
def test_another_target_is_refused(other: dict[str, object], fault: str) -> None:
    """Catches a drafter that is judged by what it says of its target, and not by the shape that it has."""
    fingerprint = {"name": "own", "hidden_size": 32, "vocab_size": 51, "tokenizer_sha256": tokenizer_sha256(TOKENS)}
    config = small_config(target_fingerprint=fingerprint)
    text = why_another_target(config, **OWN | other)  # type: ignore[arg-type]
    assert text is not None
    assert text.startswith("This drafter was made for another target (own): ")
    with pytest.raises(ValueError, match=rf"{fault}.*Use it with its own target, or train one for tiny"):
        raise ValueError(text)


@pytest.mark.parametrize(("trained", "context", "warns"), [(None, 10**6, False), (64, 64, False), (64, 65, True)])
def test_contexts_beyond_the_training(trained: int | None, context: int, warns: bool) -> None:
    text = beyond_training(small_config(trained_length=trained), context)
    assert bool(text) is warns
    assert text is None or ("up to 64 tokens" in text and "--sequence-length 65" in text)


@pytest.mark.parametrize(
    ("name", "is_told"),
    [
        ("model.embed_tokens.weight", False),
        ("model.language_model.embed_tokens.weight", False),
        ("transformer.wte.weight", True),
        ("model.decoder.embed_tokens.weight", True),
    ],
)
def test_an_embedding_that_vllm_does_not_share(tmp_path: Path, name: str, is_told: bool) -> None:
    """Catches a drafter trained for hours for a target that vLLM starts with none for."""
    save_file(
        {name: torch.zeros(4, 2), "model.layers.99.embed_tokens.weight": torch.zeros(4, 2)}, tmp_path / "a.safetensors"
    )
    reason = why_not_served(str(tmp_path))
    assert (reason is not None) == is_told
    assert reason is None or name in reason
