"""The drafter under Transformers' names: their own code loads it, and computes what our module does.

Catches: embedding and hidden state in the other order, a norm under the name of another, a layer of another shape taken
for the target's.
"""

import json
import re
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from tests.drafts import write_random_draft
from tests.training.test_loop import save_target
from vllm_mtp.benchmarks.simulation.speculate import load_module
from vllm_mtp.cli import main
from vllm_mtp.training.config import TrainConfig
from vllm_mtp.training.frozen.target import config_and_tokenizer
from vllm_mtp.training.loss.unroll import unroll
from vllm_mtp.training.start.initial import draft_config_for


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return save_target(tmp_path / "target", tied=False)


def write_draft(folder: Path, target: Path, config: TrainConfig) -> Path:
    text_config = config_and_tokenizer(str(target))[0].get_text_config()
    return write_random_draft(folder, draft_config_for(text_config, config, {}))


def test_transformers_computes_what_the_module_does(target: Path, tmp_path: Path) -> None:
    modeling = pytest.importorskip("transformers.modeling_layers")
    if not hasattr(modeling, "MtpModel"):
        pytest.skip("transformers has no MtpModel")
    draft = write_draft(tmp_path / "draft", target, TrainConfig(sequence_length=64))
    assert main(["export", str(target), "--draft", str(draft), "--output", str(tmp_path / "mtp.safetensors")]) == 0

    class WithMtp(LlamaForCausalLM):  # Llama's own class names no MTP layers
        _keys_to_ignore_on_load_unexpected: ClassVar = [r"model\.layers\.2\."]

    tensors = load_file(target / "model.safetensors") | load_file(tmp_path / "mtp.safetensors")
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    fields = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(fields | {"num_mtp_layers": 1}))
    model = WithMtp.from_pretrained(target).eval()
    mtp = modeling.MtpModel.from_pretrained(model).eval()

    ids_BT = torch.randint(0, 256, (2, 12), generator=torch.Generator().manual_seed(0))
    hidden_BTD = model.model(ids_BT).last_hidden_state
    next_BT = ids_BT.roll(-1, dims=1)
    embeddings_BTD = model.get_input_embeddings()(next_BT)
    module = load_module(draft)
    with torch.no_grad():
        [expected_BTD] = unroll(module, hidden_BTD, lambda *_: embeddings_BTD, 1)
        positions_BT = torch.arange(12)[None].expand(2, -1)
        found_BTD = mtp.layers[0](
            embeddings_BTD,
            hidden_BTD,
            position_embeddings=mtp.rotary_emb(embeddings_BTD, position_ids=positions_BT),
            attention_mask=torch.full((12, 12), float("-inf")).triu(1)[None, None],
            position_ids=positions_BT,
            past_key_values=None,
        )
    torch.testing.assert_close(found_BTD, expected_BTD, rtol=1e-4, atol=1e-4)


def test_a_target_s_weights_are_not_written_over(
    target: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draft = write_draft(tmp_path / "draft", target, TrainConfig(sequence_length=64))
    weights, other = target / "model.safetensors", tmp_path / "mtp.safetensors"
    before = weights.read_bytes()
    command = ["export", str(target), "--draft", str(draft), "--output"]
    assert main([*command, str(weights)]) == 2
    assert f"--output: {weights} is something else than an exported drafter" in capsys.readouterr().err
    assert weights.read_bytes() == before
    assert [main([*command, str(other)]) for _ in range(2)] == [0, 0], "its own it may write again"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            TrainConfig(sequence_length=64, intermediate_size=48),
            r"draft: Transformers .* expected layer.mlp.down_proj.weight in \[32, 64\]",
        ),
        (
            TrainConfig(sequence_length=64, qk_norm=True),
            r"draft: .* expected layer.self_attn.k_norm.weight in None, got \[8\]",
        ),
    ],
    ids=["another width", "norms that Llama has not"],
)
def test_another_layer_than_the_target_s(
    target: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], config: TrainConfig, message: str
) -> None:
    draft, output = write_draft(tmp_path / "draft", target, config), tmp_path / "mtp.safetensors"
    assert main(["export", str(target), "--draft", str(draft), "--output", str(output)]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not output.exists()
