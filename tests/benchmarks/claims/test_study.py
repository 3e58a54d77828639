"""The claims study end to end on a tiny budget, what it reuses and what it refuses, and its general text."""

import gzip
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import transformers

from tests.training.test_loop import save_target
from vllm_mtp.benchmarks.claims import study as claims
from vllm_mtp.benchmarks.claims import train as claims_train
from vllm_mtp.benchmarks.claims.arms import CUT, DRAFT, FULL, Arm, arms_of, comparisons
from vllm_mtp.benchmarks.claims.config import RECIPE, ClaimsConfig
from vllm_mtp.benchmarks.claims.data import Sources
from vllm_mtp.benchmarks.claims.text import documents, is_free, write_documentation
from vllm_mtp.common.engine_options import EngineOptions
from vllm_mtp.training.config import TrainConfig
from vllm_mtp.training.data.conversations import Conversation, save_conversations
from vllm_mtp.training.run import TrainInputs

PUBLISHED = Path(__file__).parents[3] / "benchmarks" / "results" / "claims" / "results.json"
TINY = ClaimsConfig(
    claims=("objective", "pretraining"),
    seeds=(0, 1),
    tokens=1024,
    data_tokens=2048,
    sequence_length=32,
    batch_size=4,
    temperature=(0.0,),
    max_tokens=8,
    num_prompts=2,
    engine="torch",
    dtype="float32",
)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of two layers with a tokenizer of bytes: what is measured means nothing, that it is does."""
    return save_target(tmp_path_factory.mktemp("claims-target"), tied=True)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory, target: Path) -> Sources:
    """A little of each kind of text; "generated" is cut from this file, which no figure here depends on."""
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("sources")
    text = Path(__file__).read_text("utf-8")[:4000]
    ids = AutoTokenizer.from_pretrained(target)(text).input_ids
    rows = [ids[start : start + 33] for start in range(0, len(ids) - 33, 33)]
    save_conversations(
        folder / "generated.npz", [Conversation(ids=tuple(row), prompt_length=8, temperature=1.0) for row in rows]
    )
    (folder / "general.txt").write_text(text, "utf-8")
    (folder / "prompts.txt").write_text("import os\n-----\ndef f(x):\n-----\nclass A:\n", "utf-8")
    return Sources(
        generated=(folder / "generated.npz",), general=(folder / "general.txt",), prompts=folder / "prompts.txt"
    )


def run(config: ClaimsConfig, sources: Sources, target: Path, output: Path) -> dict[str, Any]:
    assert claims.bench(config, sources, target=str(target), output=output, command="vllm-mtp") == 0
    result: dict[str, Any] = json.loads((output / "results.json").read_text())
    return result


def test_end_to_end_and_again(sources: Sources, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four arms on two seeds, and then: nothing is trained again, another seed adds its own, other settings do not."""
    result = run(replace(TINY, seeds=(0,)), sources, target, tmp_path)
    trained: list[Path] = []

    def train(config: TrainConfig, inputs: TrainInputs) -> object:
        trained.append(inputs.output)
        return original(config, inputs)

    original = claims_train.train
    monkeypatch.setattr(claims_train, "train", train)
    assert "over prompts (bootstrap) alone, of one seed" in (tmp_path / "table.md").read_text()
    again = run(replace(TINY, seeds=(0,)), sources, target, tmp_path)
    assert not trained
    assert again["claims"] == result["claims"]

    both = run(TINY, sources, target, tmp_path)
    assert {path.parent.name.split("-")[-1] for path in trained} == {"s1"}
    assert len(trained) == 5  # four arms, one of them in two stages
    rows: Sequence[dict[str, dict[str, object]]] = both["claims"]  # type: ignore[assignment]
    assert [row["claim"] for row in rows] == ["objective", "pretraining", "pretraining"]
    for row in rows:
        one, two = row["better"]["of_seeds"], row["worse"]["of_seeds"]
        expected = [a - b for a, b in zip(one, two, strict=True)]  # type: ignore[call-overload]
        assert row["difference"]["of_seeds"] == pytest.approx(expected, abs=2e-4)
    arms: Sequence[dict[str, list[int]]] = both["arms"]  # type: ignore[assignment]
    seen = [tokens for arm in arms for tokens in arm["tokens_seen"]]
    assert min(seen) > 0.9 * TINY.tokens
    assert max(seen) < 1.1 * TINY.tokens
    text = (tmp_path / "table.md").read_text()
    assert "| objective |" in text
    assert "over seeds (t, paired by seed) and prompts" in text

    with pytest.raises(ValueError, match="max_tokens: 8, now 9"):
        run(replace(TINY, max_tokens=9), sources, target, tmp_path)
    with pytest.raises(ValueError, match="general_sha256"):
        run(TINY, replace(sources, general=(Path(__file__),)), target, tmp_path)
    for row in (tmp_path / "rows").glob("*.json"):  # of a version whose modules started otherwise
        row.write_text(row.read_text("utf-8").replace('"module_init": "last-layer"', '"module_init": "fitted"'))
    with pytest.raises(ValueError, match="module_init: 'fitted', now 'last-layer'"):
        run(TINY, sources, target, tmp_path)


def test_rows_and_checkpoints(sources: Sources, target: Path, tmp_path: Path) -> None:
    """Short rows, and the best checkpoint, are trained as the arms say, on as many tokens."""
    length, size = 64, 2
    asked_for = replace(TINY, claims=("rows", "keep"), seeds=(0,), sequence_length=length, batch_size=size)
    result = run(asked_for, sources, target, tmp_path)
    assert [(one["claim"], "tokens or more" in one["metric"]) for one in result["claims"]] == [
        ("rows", False),
        ("keep", False),
    ], "no prompt is that long"
    folders = [next((tmp_path / "drafts" / f"{arm['arm']}-s0").iterdir()) for arm in result["arms"]]
    infos = [json.loads((folder / "run_info.json").read_text("utf-8")) for folder in folders]
    asked = [[info["config"][name] for name in ("sequence_length", "batch_size", "keep")] for info in infos]
    assert asked == [[length, size, "last"], [length // 4, size * 4, "last"], [length, size, "best"]]
    seen = [arm["tokens_seen"][0] for arm in result["arms"]]
    assert max(seen) < 1.1 * min(seen)


def test_arms_are_shared_between_claims() -> None:
    arms = arms_of(comparisons(ClaimsConfig(), FULL, 384))
    assert len(arms) == len({arm.name for arm in arms}) == 7
    assert sum(arm.vocabulary == DRAFT for arm in arms) == 1
    published = json.loads(PUBLISHED.read_text("utf-8"))["arms"]
    assert [(arm.name, str(arm)) for arm in arms] == [(one["arm"], one["what"]) for one in published]
    given = arms_of(comparisons(ClaimsConfig(claims=("objective",)), DRAFT, 384))
    assert [arm.vocabulary for arm in given] == [DRAFT, DRAFT]
    assert [arm.objective for arm in given] == ["kl", "lm"]


def test_arms_of_the_recipe_differ_in_one_setting() -> None:
    found = comparisons(ClaimsConfig(claims=RECIPE), FULL, 384)
    beyond = [comparison for comparison in found if comparison.min_prompt_tokens]
    found = [comparison for comparison in found if comparison not in beyond]
    assert len({arm.name for arm in arms_of(found)}) == len(arms_of(found)) == len(found) + 3
    *of_settings, cut, rows, keep, fitted = found
    assert fitted.worse.settings == (("module_init", "random"),)
    assert fitted.better in [comparison.worse for comparison in of_settings], "what the last layer is compared with"
    assert {found.worse for found in of_settings if found.claim in ("qk-norm", "width")}.isdisjoint(
        found.better for found in of_settings if found.claim == "last-layer"
    ), "a setting that the last layer may not fit is compared without it"
    for comparison in (*of_settings, fitted):
        settings, usual = (arm.train_settings(len(arm.stages) - 1) for arm in (comparison.better, comparison.worse))
        assert len({name for name, _ in settings.items() ^ usual.items()}) == 1
        TrainConfig(**settings)
    assert rows.worse.train_settings(0) == rows.better.train_settings(0) | {"sequence_length": 64, "batch_size": 32}
    assert beyond == [replace(rows, min_prompt_tokens=64)], "what rows give, beyond the shorter ones"
    assert keep.better.train_settings(0) == keep.worse.train_settings(0) | {"keep": "best", "checkpoint_every": 24}
    assert (cut.better, cut.worse.vocabulary) == (replace(cut.worse, vocabulary=CUT), DRAFT)


def test_steps_make_up_for_batches_that_are_not_full(sources: Sources, target: Path, tmp_path: Path) -> None:
    """Conversations of 23 tokens in rows of 33 would otherwise see fewer tokens than text."""
    path = tmp_path / "short.npz"
    many = [Conversation(ids=(*range(n % 7, 23 + n % 7),), prompt_length=4, temperature=1.0) for n in range(60)]
    save_conversations(path, many)
    text = claims_train.tokens_per_step(sources.general, str(target), TINY)
    assert text == pytest.approx(TINY.sequence_length * TINY.batch_size, rel=0.05)  # the last batch has what is left
    # 22 positions of a conversation: five of them fit into a batch of 128.
    assert claims_train.tokens_per_step((path,), str(target), TINY) == pytest.approx(110, rel=0.05)


DEP5 = "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\nFiles: *\nLicense: {}\n text\n"


@pytest.mark.parametrize(
    ("licence", "free"),
    [
        ("Expat", True),
        ("BSD-3-clause and GPL-2+", True),
        ("LGPL-2.1+ or Artistic", True),
        ("Expat\n\nFiles: doc/*\nLicense: GFDL-1.3+-invariants", False),
        ("other", False),
        ("", False),
    ],
)
def test_licences(licence: str, free: bool) -> None:
    assert is_free(DEP5.format(licence)) == free


def test_a_copyright_file_in_prose_counts_as_not_checked() -> None:
    assert not is_free("This package is free.\nLicense: Expat\n")


def test_documentation(tmp_path: Path) -> None:
    """Free packages' texts, compressed or not; no changelog, no stub, nothing of a package that is not free."""
    for package, licence in (("free", "MIT"), ("unfree", "CC-BY-NC-4.0")):
        folder = tmp_path / "doc" / package
        folder.mkdir(parents=True)
        (folder / "copyright").write_text(DEP5.format(licence))
        (folder / "README.gz").write_bytes(gzip.compress(b"word " * 200))
        (folder / "guide.txt").write_text("line\n" * 200)
        (folder / "stub.txt").write_text("see elsewhere")
        (folder / "changelog.gz").write_bytes(gzip.compress(b"change " * 200))
        (folder / "README.latin").write_bytes(b"\xe9" * 600)
    assert [path for path, _ in documents(tmp_path / "doc")] == ["free/README.gz", "free/guide.txt"]
    counts = write_documentation(tmp_path / "general.jsonl", tmp_path / "doc")
    assert counts["packages"] == ["free"]
    assert len((tmp_path / "general.jsonl").read_text().splitlines()) == counts["num_documents"] == 2
    with pytest.raises(ValueError, match=r"^general: "):
        write_documentation(tmp_path / "general.jsonl", tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"claims": ("objectives",)}, "^claims: expected one of objective"),
        ({"seeds": (1, 1)}, "no two alike"),
        ({"seeds": ()}, "at least one"),
        ({"tokens": 100}, "^tokens: "),
        ({"engine": "sglang"}, "^engine: "),
        ({"temperature": (-1.0,)}, "at least 0"),
    ],
)
def test_bad_settings_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClaimsConfig(**fields)  # type: ignore[arg-type]


def test_an_arm_says_what_it_is() -> None:
    arm = Arm(num_steps_unrolled=3, stages=("general", "generated"), vocabulary=FULL)
    assert (arm.name, str(arm)) == (
        "kl-k3-general-generated-full",
        "KL, K = 3, general, then generated text, full vocabulary",
    )


def test_an_arm_is_trained_with_its_settings(sources: Sources, target: Path, tmp_path: Path) -> None:
    """As many tokens whatever the batch, and a vocabulary that is cut after training."""
    config = replace(TINY, claims=("batch-size", "cut"), seeds=(0,), num_prompts=1, draft_vocab_size=99)
    result = run(config, sources, target, tmp_path)
    assert [row["claim"] for row in result["claims"]] == ["batch-size", "batch-size", "cut"]
    made = {
        path.parent.relative_to(tmp_path / "drafts").as_posix(): json.loads(path.read_text())
        for path in (tmp_path / "drafts").rglob("run_info.json")
    }
    assert {name: (info["config"]["batch_size"], info["draft_vocab_size"]) for name, info in made.items()} == {
        "kl-k3-generated-full-s0/0-generated": (4, None),
        "kl-k3-generated-full-batch_size-2-s0/0-generated": (2, None),
        "kl-k3-generated-full-batch_size-8-s0/0-generated": (8, None),
        "kl-k3-generated-cut-s0/0-generated": (4, None),
        "kl-k3-generated-cut-s0/cut": (4, 99),
        "kl-k3-generated-draft-s0/0-generated": (4, 99),
    }
    seen = [arm["tokens_seen"][0] for arm in result["arms"]]
    assert min(seen) > 0.9 * TINY.tokens
    assert max(seen) < 1.2 * TINY.tokens


@pytest.mark.extended
def test_every_reading_of_the_target_is_of_the_same_revision(
    sources: Sources, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches arms that are trained on the default branch, and measured on the revision that was given."""
    read: list[tuple[object, object]] = []
    original = transformers.AutoConfig.from_pretrained

    def from_pretrained(name: str, **how: object) -> object:
        read.append((how.get("revision"), how.get("trust_remote_code")))
        return original(name, **how)

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", from_pretrained)
    options = EngineOptions(revision="of-mine", trust_remote_code=True)
    config = replace(TINY, claims=("vocabulary",), seeds=(0,), tokens=512, draft_vocab_size=99, speed_passes=0)
    run(replace(config, engine_options=options), sources, target, tmp_path)
    assert len(read) > 4
    assert set(read) == {("of-mine", True)}
