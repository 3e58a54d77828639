"""What `make demo-smollm2` measures."""

from pathlib import Path

from tests.drafts import small_config, write_random_draft
from vllm_mtp.benchmarks.demo.command import from_root
from vllm_mtp.benchmarks.demo.smollm2 import SmolLM2Config, make_parser, methods_of
from vllm_mtp.benchmarks.harness.method import OFF
from vllm_mtp.common.flags import config_of
from vllm_mtp.contract.checkpoint import write_lookup
from vllm_mtp.contract.lookup import Lookup


def test_with_lookup_and_without(tmp_path: Path) -> None:
    """The drafter's own settings, or the usual ones where it has none: either way no row follows its folder unsaid."""
    draft = write_random_draft(tmp_path / "draft", small_config())
    config = SmolLM2Config(output=tmp_path, target=tmp_path, draft=draft, prompts=tmp_path)
    for lookup in (Lookup(), Lookup(min_match=3)):
        methods = methods_of(config)
        found = {t: [(m.num_speculative_tokens, m.lookup) for m in methods[t] if m.name == "mtp"] for t in methods}
        assert found == {0.0: [(3, lookup), (5, lookup), (2, OFF), (3, OFF)], 1.0: [(3, lookup), (3, OFF)]}
        assert [method.name for method in methods[0.0] if method.is_baseline] == ["ngram", "suffix", "suffix-f2"]
        write_lookup(draft, Lookup(min_match=3))


def test_flags_become_the_config() -> None:
    """Paths are as seen from the repository; 0 prompts of a task are all."""

    def parsed(*words: str) -> SmolLM2Config:
        config: SmolLM2Config = from_root(config_of(SmolLM2Config, make_parser().parse_args(words)))
        return config

    assert parsed() == from_root(SmolLM2Config())
    assert (parsed().output, parsed().target) == (Path("runs/smollm2"), None)
    assert parsed("--target", "/t").target == Path("/t")
    assert parsed("--quantization", "fp8").engine_options.quantization == "fp8"
    assert parsed("--limit-per-task", "0").limit_per_task is None
