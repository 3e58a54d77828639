"""Every function of ops.py, now the Triton kernels, against its plain twin of the same name."""

import pytest

from tests.kernels.reference_cases import FUNCTIONS, check


@pytest.mark.parametrize("name", FUNCTIONS)
def test_results(name: str) -> None:
    check(name)
