"""What the draft model tells vLLM of itself.

Catches: a compiled drafter of one shape that vLLM finds again for a drafter of another.
"""

import pytest

from tests.drafts import small_config

pytestmark = pytest.mark.vllm


def test_compiled_graphs_are_kept_by_the_shape_of_the_drafter() -> None:
    from vllm.config import VllmConfig

    from vllm_mtp.serving.draft_model import _tell_of_graphs

    def key(**shape: int | bool) -> str:
        config = VllmConfig(additional_config={"mtp_projection": "layers"})
        _tell_of_graphs(small_config(**shape), config)
        assert config.additional_config["mtp_projection"] == "layers"
        return str(config.compute_hash())

    assert key() == key()
    assert len({key(), key(qk_norm=True), key(intermediate_size=96)}) == 3
