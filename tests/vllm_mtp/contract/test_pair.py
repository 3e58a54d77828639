"""Drafter and target: refused in the same words wherever they meet, and contexts beyond the training."""

import pytest

from tests.drafts import small_config
from vllm_mtp.contract.fingerprint import tokenizer_sha256
from vllm_mtp.contract.pair import beyond_training, why_another_target

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
