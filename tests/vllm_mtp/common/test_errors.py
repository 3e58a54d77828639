"""InputError. Catches one that loses its field on the way between processes."""

import pickle

from vllm_mtp.common.errors import InputError


def test_it_names_its_field() -> None:
    error = pickle.loads(pickle.dumps(InputError("data", "expected text")))
    assert isinstance(error, ValueError)
    assert (error.field, error.message, str(error)) == ("data", "expected text", "data: expected text")
