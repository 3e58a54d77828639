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
from tests.shared import shared
from tests.thin import with_one_layer_of

ROOT = Path(__file__).resolve().parent.parent
SHIPPED_TARGET = ROOT / "examples" / "stdlib" / "target"
ONE_LAYER_OF = 3
MAX_PROMPT_TOKENS = 64
NUM_TRAINING_TOKENS = 65_536


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--extended", action="store_true", help="run the tests marked extended as well")
    parser.addoption(
        "--target",
        type=Path,
        help="folder of the target that is served; default: the shipped one, a third of its layers",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Processes that share out the files (pytest-xdist) keep the order below."""
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skips what cannot run here and what was not asked for. Files that take long come first: of several processes
    none works on alone at the end."""
    no_vllm = importlib.util.find_spec("vllm") is None
    for item in items:
        if no_vllm and item.get_closest_marker("vllm"):
            item.add_marker(pytest.mark.skip(reason="vLLM is not installed"))
        if item.get_closest_marker("extended") and not config.getoption("--extended"):
            item.add_marker(pytest.mark.skip(reason="only with --extended"))
    long = {item.path for item in items if item.get_closest_marker("vllm") or item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in long)


@pytest.fixture(scope="session")
def whole_target_dir(request: pytest.FixtureRequest) -> Path:
    """A small language model of Python source, with its tokenizer: for what needs text that is not a loop."""
    folder: Path = (request.config.getoption("--target") or SHIPPED_TARGET).resolve()
    assert (folder / "config.json").is_file(), f"{folder}: expected the target's folder, found no config.json"
    return folder


@pytest.fixture(scope="session")
def target_dir(
    request: pytest.FixtureRequest, whole_target_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The target: that model with a third of its layers, unless one was given."""
    if request.config.getoption("--target") is not None:
        return whole_target_dir
    return with_one_layer_of(ONE_LAYER_OF, whole_target_dir, tmp_path_factory.mktemp("targets") / "target")


@pytest.fixture(scope="session")
def corpus() -> ModuleType:
    """examples/stdlib/corpus.py."""
    return load_script("examples/stdlib/corpus.py")


@pytest.fixture(scope="session")
def draft_dir(target_dir: Path, corpus: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drafter for the target, distilled in seconds: good enough that a fair share of its drafts is accepted.

    Without lookup: every token is the module's.
    """

    def make(folder: Path) -> None:
        texts = [text for _, text in corpus.documents("train")[::10]]
        distil(target_dir, texts, folder)

    return shared(tmp_path_factory, "draft", make)


def distil(target_dir: Path, texts: list[str], folder: Path) -> None:
    """Writes a drafter without lookup, and beside its folder the text that it was trained on."""
    from vllm_mtp.contract.checkpoint import write_lookup
    from vllm_mtp.training.config import TrainConfig
    from vllm_mtp.training.loop import train
    from vllm_mtp.training.run import TrainInputs

    data = folder.with_name("train.jsonl")
    data.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    config = TrainConfig(
        tokens=NUM_TRAINING_TOKENS, sequence_length=128, warmup_steps=5, checkpoint_every=1000, dtype="float32"
    )
    train(config, TrainInputs(target=str(target_dir), data=[data], output=folder, device="cpu", show_progress=False))
    write_lookup(folder, None)


@pytest.fixture(scope="session")
def prompts(target_dir: Path) -> list[list[int]]:
    """Token ids of the shipped prompts' beginnings, from files that neither target nor drafter were trained on."""
    from transformers import AutoTokenizer

    from vllm_mtp.training.data.prompts import read_prompts

    tokenizer = AutoTokenizer.from_pretrained(target_dir)
    texts = [prompt.text for prompt in read_prompts([ROOT / "examples" / "stdlib" / "prompts.txt"])]
    return [tokenizer(text, add_special_tokens=False).input_ids[:MAX_PROMPT_TOKENS] for text in texts]
