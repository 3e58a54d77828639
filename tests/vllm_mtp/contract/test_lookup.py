"""Lookup in a text, its settings, and the fast search against its definition."""

import random
from typing import Any

import numpy as np
import pytest

from vllm_mtp.contract.lookup import NO_TOKEN, Lookup, Text, find


@pytest.mark.parametrize(
    ("text", "least", "most", "token"),
    [
        ([5, 1, 2, 9, 1, 2], 2, 8, 9),
        ([5, 1, 2, 9, 1, 2], 3, 8, NO_TOKEN),
        ([1, 2, 7, 1, 2, 8, 1, 2], 2, 8, 8),  # of equals the latest
        ([3, 1, 2, 7, 1, 2, 8, 3, 1, 2], 2, 8, 7),  # the longest before the latest
        ([3, 1, 2, 7, 1, 2, 8, 3, 1, 2], 2, 2, 8),  # unless no more is looked at
        ([4, 4, 4, 4], 2, 8, 4),  # a match may overlap the end
        ([4], 1, 8, NO_TOKEN),
        ([], 1, 8, NO_TOKEN),
    ],
)
def test_what_is_found(text: list[int], least: int, most: int, token: int) -> None:
    assert find(text, least, most) == token
    assert Text(np.array(text, dtype=np.int32)).find(least, most) == token


def test_the_fast_search_is_its_definition() -> None:
    """Catches a search that forgets a place when it narrows them down, or reads beyond the text's beginning."""
    rng = random.Random(0)
    for _ in range(2000):
        tokens = [rng.randrange(rng.choice((1, 2, 3, 6))) for _ in range(rng.randrange(40))]
        most = rng.randint(1, 9)
        least = rng.randint(1, most)
        text = Text(np.array(tokens, dtype=np.int32))
        for _ in range(4):
            assert text.find(least, most) == find(tokens, least, most)
            token = rng.randrange(3)
            tokens.append(token)
            text.append(token)


def test_an_unknown_token_matches_nothing() -> None:
    """Catches two holes in the table that are taken for the same text, and a hole that is drafted."""
    text = Text(np.array([NO_TOKEN, 1, 7, NO_TOKEN, 1], dtype=np.int32))
    assert text.find(1, 8) == 7
    assert text.find(2, 8) == NO_TOKEN
    assert Text(np.array([1, NO_TOKEN, 1], dtype=np.int32)).find(1, 8) == NO_TOKEN


def test_settings() -> None:
    assert Lookup.of(None) is None
    assert Lookup.of({"min_match": 3}) == Lookup(min_match=3)
    assert Lookup.of(Lookup().fields()) == Lookup()
    assert [Lookup(min_match=2, module_steps=2).least(step) for step in range(4)] == [2, 2, 1, 1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (True, "lookup must be an object"),
        ({"min": 1}, "no field 'min', only min_match, max_match, module_steps"),
        ({"min_match": 0}, "lookup.min_match must be a positive integer, got 0"),
        ({"max_match": 2.0}, "lookup.max_match must be a positive integer, got 2.0"),
        ({"module_steps": True}, "lookup.module_steps must be a positive integer, got True"),
        ({"min_match": 9}, "min_match <= max_match <= 32, got 9 and 8"),
        ({"max_match": 33}, "min_match <= max_match <= 32, got 2 and 33"),
    ],
)
def test_bad_settings_are_refused(settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Lookup.of(settings)
