"""Hidden states of the target by vLLM, whose drafter is that of the same states by transformers.

Catches: states before the final norm or normalised to length one, of other rows, of tokens that a prefix hit left out;
an engine that stays, or starts again for what the store has; a head that vLLM computes in another way.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.training.test_loop import assert_alike, run_train, weights
from vllm_mtp.common.engine_options import EngineOptions
from vllm_mtp.common.errors import InputError
from vllm_mtp.training.config import TrainConfig
from vllm_mtp.training.frozen import served
from vllm_mtp.training.frozen.served import ServedTarget
from vllm_mtp.training.frozen.target import FrozenTarget

OF_VLLM = TrainConfig(
    tokens=8 * 4 * 64, sequence_length=64, batch_size=4, warmup_steps=2, dtype="float32", hidden_states="vllm"
)


@pytest.fixture(scope="module")
def data(corpus: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "text.txt"
    path.write_text("".join(text for _, text in corpus.documents("train")[:10])[:20_000], encoding="utf-8")
    return path


@pytest.mark.vllm
@pytest.mark.slow
def test_a_drafter_of_vllm_s_hidden_states(
    target_dir: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []

    @contextmanager
    def counted(*args: Any, **kwargs: Any) -> Iterator[Any]:
        with served_engine(*args, **kwargs) as engine:
            started.append("engine")
            yield engine
        started.append("its end")

    served_engine = served.vllm_engine
    monkeypatch.setattr(served, "vllm_engine", counted)
    store: dict[str, Any] = {"store": tmp_path / "store"}
    info = run_train(OF_VLLM, target_dir, data, tmp_path / "vllm", **store)
    assert info["config"]["hidden_states"] == "vllm"
    assert started == ["engine", "its end"]
    run_train(OF_VLLM, target_dir, data, tmp_path / "again", **store)
    assert started == ["engine", "its end"]
    assert weights(tmp_path / "again") == weights(tmp_path / "vllm")

    # Of vLLM's target no layer can be copied.
    plain = replace(OF_VLLM, hidden_states="transformers", module_init="fitted")
    run_train(plain, target_dir, data, tmp_path / "plain", **store)
    assert len(list((tmp_path / "store").iterdir())) == 2  # neither takes the other's for its own
    assert_alike(tmp_path / "vllm", tmp_path / "plain", rel=2e-3)


class Engine:
    """Answers as vLLM's engine, with hidden states of a given kind."""

    def __init__(self, states_of: Any) -> None:
        self.states_of = states_of

    def encode(self, prompts: list[dict[str, Any]], params: Any, **more: Any) -> list[Any]:
        ids = [torch.tensor(prompt["prompt_token_ids"]) for prompt in prompts]
        return [SimpleNamespace(outputs=SimpleNamespace(data=self.states_of(ids_T))) for ids_T in ids]


def test_a_head_that_foresees_nothing_is_refused(
    target_dir: Path, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("vllm")
    plain = FrozenTarget.load(str(target_dir), device="cpu", dtype="float32")
    ids_BT = torch.tensor(prompts[0])[None]

    def read_by(states_of: Any) -> torch.Tensor:
        @contextmanager
        def started(*_: Any, **__: Any) -> Iterator[Engine]:
            yield Engine(states_of)

        monkeypatch.setattr(served, "vllm_engine", started)
        target = ServedTarget.open(str(target_dir), EngineOptions(), 64, device="cpu", dtype="float32")
        assert target.fingerprint() == plain.fingerprint()
        return target.hidden_states(ids_BT)

    torch.testing.assert_close(read_by(lambda ids_T: plain.hidden_states(ids_T[None])[0]), plain.hidden_states(ids_BT))
    with pytest.raises(InputError, match="no better than chance"):
        read_by(lambda ids_T: plain.hidden_states(ids_T.flip(0)[None])[0])


@pytest.mark.parametrize(
    ("config", "more", "field", "message"),
    [
        (OF_VLLM, {}, "hidden_states", "vllm needs a store"),
        (
            TrainConfig(),
            {"engine_options": EngineOptions(quantization="fp8")},
            "quantization",
            "expected hidden_states vllm",
        ),
    ],
    ids=["no store", "an engine's option without an engine"],
)
def test_what_does_not_go_together(
    target_dir: Path, data: Path, tmp_path: Path, config: TrainConfig, more: dict[str, Any], field: str, message: str
) -> None:
    with pytest.raises(InputError, match=message) as refusal:
        run_train(config, target_dir, data, tmp_path / "draft", **more)
    assert refusal.value.field == field
    assert not (tmp_path / "draft").exists()
