"""Sets of `vllm-mtp generate` as rows. Catches a later turn of the user that counts as the target's."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from vllm_mtp.training.data.conversations import Conversation, save_conversations
from vllm_mtp.training.data.generated import generated_source


@pytest.mark.parametrize(("loss_on", "counted"), [("answers", [*range(3, 10), *range(14, 20)]), ("all", range(1, 20))])
def test_every_answer_counts(target_dir: Path, tmp_path: Path, loss_on: str, counted: list[int]) -> None:
    several = Conversation(ids=tuple(range(20)), prompt_length=3, temperature=0.0, given=((10, 14),))
    save_conversations(tmp_path / "conversations.npz", [several])
    source = generated_source(tmp_path, AutoTokenizer.from_pretrained(target_dir), None, 100, loss_on)
    assert source.rows[0].counts_L.nonzero().flatten().tolist() == list(counted)


@pytest.mark.parametrize("content", ["{}", "[]", '{"target": "t"}', '{"target": {}}'])
def test_a_run_info_of_another_shape_is_named(content: str, target_dir: Path, tmp_path: Path) -> None:
    save_conversations(
        tmp_path / "conversations.npz", [Conversation(ids=(*range(20),), prompt_length=3, temperature=0.0)]
    )
    (tmp_path / "run_info.json").write_text(content)
    with pytest.raises(ValueError, match=r"^data: .*run_info\.json is not what `vllm-mtp generate` writes"):
        generated_source(tmp_path, AutoTokenizer.from_pretrained(target_dir), None, 100, "all")
