"""What the draft model tells vLLM of itself.

Catches: a compiled drafter of one shape that vLLM finds again for a drafter of another; an id that no embedding has.
"""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

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


def test_ids_of_images_beyond_the_embedding_do_not_end_the_engine() -> None:
    """They reach a drafter of some multimodal targets (LLaVA, Ultravox), whose own forward masks them. The ids stay in
    their place: a CUDA graph that is replayed reads there."""
    from vllm_mtp.serving.draft_model import MTPDraftModel

    class Embedding(nn.Module):
        def forward(self, input_ids: Tensor, positions: Tensor, hidden_TD: Tensor, inputs_embeds: None) -> Tensor:
            assert input_ids.data_ptr() == ids_T.data_ptr()
            return table_VD[input_ids]

    table_VD = torch.randn(16, 4)
    model = MTPDraftModel.__new__(MTPDraftModel)
    nn.Module.__init__(model)
    model.config, model.model, model.has_placeholders = small_config(vocab_size=16), Embedding(), True
    model._chosen_heads = [SimpleNamespace()]
    ids_T = torch.tensor([3, 15, 16, 99])
    found_TD = model(ids_T, torch.arange(4), torch.zeros(4, 4))
    assert torch.equal(found_TD, table_VD[[3, 15, 15, 15]])
