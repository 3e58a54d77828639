"""What tests share: the environment of vLLM, the shipped target, a drafter distilled for it, held-out prompts."""

import os

# Before anything imports vllm or torch.
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # the engine in the test's own process: starts in seconds
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB; otherwise a share of all memory, and a warm-up run
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a path that does not exist is an error, not a question to the hub
# Models this small gain nothing from a second thread, and OpenMP threads that wait for each other at every operation
# become ten times slower as soon as anything else wants a core.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

from tests.scripts import load_script

ROOT = Path(__file__).resolve().parent.parent
MAX_PROMPT_TOKENS = 64
NUM_TRAINING_TOKENS = 98_304


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--extended", action="store_true", help="run the tests marked extended as well")
    parser.addoption(
        "--target",
        type=Path,
        default=ROOT / "examples" / "stdlib" / "target",
        help="folder of the target that is served; default: the shipped one",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skips what cannot run here and what was not asked for."""
    no_vllm = importlib.util.find_spec("vllm") is None
    for item in items:
        if no_vllm and item.get_closest_marker("vllm"):
            item.add_marker(pytest.mark.skip(reason="vLLM is not installed"))
        if item.get_closest_marker("extended") and not config.getoption("--extended"):
            item.add_marker(pytest.mark.skip(reason="only with --extended"))


@pytest.fixture(scope="session")
def target_dir(request: pytest.FixtureRequest) -> Path:
    """The target: a small language model of Python source, with its tokenizer."""
    folder: Path = request.config.getoption("--target").resolve()
    assert (folder / "config.json").is_file(), f"{folder}: expected the target's folder, found no config.json"
    return folder


@pytest.fixture(scope="session")
def corpus() -> ModuleType:
    """examples/stdlib/corpus.py."""
    return load_script("examples/stdlib/corpus.py")


@pytest.fixture(scope="session")
def draft_dir(target_dir: Path, corpus: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drafter for the target, distilled in seconds: good enough that a fair share of its drafts is accepted.

    Without lookup: every token is the module's.
    """
    from vllm_mtp.contract.checkpoint import write_lookup
    from vllm_mtp.training.config import TrainConfig
    from vllm_mtp.training.loop import train
    from vllm_mtp.training.run import TrainInputs

    folder = tmp_path_factory.mktemp("drafter")
    data = folder / "train.jsonl"
    texts = [text for _, text in corpus.documents("train")[::10]]
    data.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    config = TrainConfig(
        tokens=NUM_TRAINING_TOKENS, sequence_length=128, warmup_steps=5, checkpoint_every=1000, dtype="float32"
    )
    inputs = TrainInputs(
        target=str(target_dir), data=[data], output=folder / "draft", device="cpu", show_progress=False
    )
    train(config, inputs)
    write_lookup(folder / "draft", None)
    return folder / "draft"


@pytest.fixture(scope="session")
def prompts(target_dir: Path) -> list[list[int]]:
    """Token ids of the shipped prompts' beginnings, from files that neither target nor drafter were trained on."""
    from transformers import AutoTokenizer

    from vllm_mtp.training.data.prompts import read_prompts

    tokenizer = AutoTokenizer.from_pretrained(target_dir)
    texts = [prompt.text for prompt in read_prompts([ROOT / "examples" / "stdlib" / "prompts.txt"])]
    return [tokenizer(text, add_special_tokens=False).input_ids[:MAX_PROMPT_TOKENS] for text in texts]
