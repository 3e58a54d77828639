"""Settings: choices and bounds. Catches a check that passes over tuples, or refuses None."""

from dataclasses import dataclass
from typing import Any

import pytest

from vllm_mtp.common.errors import InputError
from vllm_mtp.common.settings import check_at_least, check_choices, setting


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    kind: str = setting("a", "Kind of thing.", choices=("a", "b"))
    kinds: tuple[str, ...] = setting(("a",), "Kinds of things.", choices=("a", "b"))
    number: int | None = setting(None, "Number of things.")
    sizes: tuple[int, ...] = setting((1, 2), "Sizes of things.")

    def __post_init__(self) -> None:
        check_choices(self)
        check_at_least(self, number=1, sizes=2 - 1)


def test_what_is_right() -> None:
    assert Config() == Config(kind="a", kinds=("a",), number=None, sizes=(1, 2))
    Config(kind="b", kinds=("b", "a"), number=1, sizes=(3,))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "c"}, "kind: expected one of a, b, got 'c'"),
        ({"kinds": ("a", "c")}, "kinds: expected one of a, b, got 'c'"),
        ({"number": 0}, "number: expected at least 1, got 0"),
        ({"sizes": (4, 0)}, "sizes: expected at least 1, got 4 0"),
        ({"sizes": ()}, "sizes: expected at least one number of at least 1, got none"),
    ],
)
def test_what_is_wrong(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}$"):
        Config(**fields)
