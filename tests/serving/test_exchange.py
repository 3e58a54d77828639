"""The target's weights are exchanged while a real engine serves: its drafter drafts by the new ones.

Catches: draft rows that stay those of the old head for good, an engine that dies of the exchange, rows of what the
target does not multiply by.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.drafts import change_config
from tests.serving.engine import engine, greedy, model_runner

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

SHIFT = 7


def with_own_head(target_dir: Path, folder: Path, shift: int) -> Path:
    """A copy of the target whose head is not tied, with the rows of embedding and head moved by `shift` places.

    Where they are tied, vLLM 0.32 on a CPU goes on with the packed old head after a reload, the target itself too.
    """
    shutil.copytree(target_dir, folder)
    change_config(folder, tie_word_embeddings=False)
    tensors = load_file(folder / "model.safetensors")
    embedding_VD = tensors["model.embed_tokens.weight"]
    head_VD = tensors.get("lm_head.weight", embedding_VD)
    tensors["model.embed_tokens.weight"] = embedding_VD.roll(shift, dims=0)
    tensors["lm_head.weight"] = head_VD.roll(shift, dims=0)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def other_target_dir(target_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The target with other tokens for the same states."""
    return with_own_head(target_dir, tmp_path_factory.mktemp("other") / "target", SHIFT)


@pytest.fixture(scope="module")
def llm(target_dir: Path, few_draft_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    target = with_own_head(target_dir, tmp_path_factory.mktemp("own_head") / "target", 0)
    with engine(
        target,
        few_draft_dir,
        3,
        speculative={"use_local_argmax_reduction": True},
        worker_extension_cls="vllm_mtp.serving.exchange.WorkerExtension",
    ) as llm:
        yield llm


@torch.inference_mode()
def drafts(llm: Any) -> tuple[list[int], list[int]]:
    """What is drafted from some states, and what the target's own head says among the tokens that are drafted."""
    runner = model_runner(llm)
    draft_model, generator = runner.drafter.model, torch.Generator().manual_seed(0)
    states_TD = torch.randn(200, draft_model.config.hidden_size, generator=generator)
    logits_TV = runner.model.compute_logits(states_TD)
    ids_J = draft_model.chosen_head.ids_J
    return draft_model.get_top_tokens(states_TD).tolist(), ids_J[logits_TV[:, ids_J].argmax(-1)].tolist()


def moved(tokens: list[int]) -> list[int]:
    """The same tokens by the names that they have in the other target."""
    return [(token + SHIFT) % 2048 for token in tokens]


def test_reload_weights(
    llm: Any, other_target_dir: Path, prompts: list[list[int]], plain_outputs: list[list[int]]
) -> None:
    assert greedy(llm, prompts[:4], 24) == [output[:24] for output in plain_outputs[:4]]
    before, of_target = drafts(llm)
    assert before == of_target
    llm.collective_rpc("reload_weights", kwargs={"weights_path": str(other_target_dir)})
    after, of_target = drafts(llm)
    assert after == of_target, "before any pass"
    assert after != before, "the heads draft alike: the test could not fail"
    llm.reset_prefix_cache()
    assert greedy(llm, [moved(ids) for ids in prompts[:4]], 24) == [moved(ids[:24]) for ids in plain_outputs[:4]]
    assert drafts(llm) == (after, of_target)


def test_weights_written_in_place(llm: Any, prompts: list[list[int]]) -> None:
    """As a trainer's own worker writes them, without a word to anybody; on a CPU it must have them packed again."""
    greedy(llm, prompts[:1], 8)
    before, of_target = drafts(llm)
    assert before == of_target

    def write(model: Any) -> None:
        head = model.lm_head
        head.weight.data.copy_(head.weight.data.roll(SHIFT, dims=0))
        head.quant_method.process_weights_after_loading(head)

    llm.apply_model(write)
    greedy(llm, prompts[:1], 8)
    after, of_target = drafts(llm)
    assert after == of_target
    assert after != before
    # What is called where nothing is looked at before a pass.
    llm.apply_model(write)
    llm.collective_rpc("follow_head")
    last, of_target = drafts(llm)
    assert last == of_target
    assert last != after
