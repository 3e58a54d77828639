"""Tokens that the target's embedding has no row for."""

from typing import Any


def too_large_an_id(token: int, vocab_size: int, tokenizer: Any) -> str:
    """What to say of a token of the target's own tokenizer that lies beyond its embedding."""
    vocabulary = tokenizer.get_vocab()
    name = next((text for text, number in vocabulary.items() if number == token), "")
    return (
        f"token {token} ({name!r}) has no row in the target's embedding: the tokenizer has {len(vocabulary):,} tokens, "
        f"the embedding {vocab_size:,} rows. Take the token out of the data, or out of the chat template that writes "
        "it; or give the target an embedding of all tokens"
    )
