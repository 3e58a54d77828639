"""The target, and whether the drafter is one for it."""

from collections.abc import Iterator

from vllm_mtp.contract.pair import OTHER_WEIGHTS, has_the_weights, why_another_target, why_not_served
from vllm_mtp.doctor.case import Case
from vllm_mtp.doctor.finding import Finding, error, ok, warning


def target_is_read(case: Case) -> Iterator[Finding]:
    """It is a model with a tokenizer, whose tokens have rows."""
    architecture = (case.target_config.architectures or ["an unnamed architecture"])[0]
    num_tokens, rows = len(case.tokenizer), case.text_config.vocab_size
    if num_tokens > rows:
        yield warning(
            f"{architecture}: the tokenizer has {num_tokens:,} tokens and the embedding {rows:,} rows: a prompt with "
            "one of the others is refused or fails"
        )
    else:
        yield ok(f"{architecture}, {rows:,} tokens")
    if reason := why_not_served(case.target, revision=case.config.engine_options.revision):
        yield warning(reason)
    if _has_images(case.text_config):
        yield warning(
            "M-RoPE: behind an image, vLLM's V1 model runner gives draft steps wrong positions, and few are accepted "
            "(vllm-project/vllm#54498); text alone is served well"
        )


def drafter_is_for_it(case: Case) -> Iterator[Finding]:
    """Hidden size, vocabulary and tokenizer are those that the drafter was trained with."""
    fault = why_another_target(
        case.draft_config,
        target=case.target,
        hidden_size=case.text_config.hidden_size,
        vocab_size=case.text_config.vocab_size,
        vocabulary=case.tokenizer.get_vocab(),
    )
    if fault:
        yield error(fault)
    elif not (case.draft_config.target_fingerprint or {}).get("tokenizer_sha256"):
        yield warning("config.json does not say which tokenizer the drafter was trained with: it was not compared")
    else:
        yield ok(f"made for {(case.draft_config.target_fingerprint or {}).get('name', 'this target')}")


def weights_are_the_same(case: Case) -> Iterator[Finding]:
    """A few rows of the target's embedding and head are those that the drafter was distilled from."""
    same = has_the_weights(case.draft_config, case.target, revision=case.config.engine_options.revision)
    if same is None:
        yield warning("the target's weights were not compared: no fingerprint of them, or no safetensors to read")
    elif same:
        yield ok("the rows of embedding and head that the fingerprint names")
    else:
        yield warning(OTHER_WEIGHTS % (case.draft_config.target_fingerprint or {}).get("name", "not named"))


def _has_images(text_config: object) -> bool:
    rope = getattr(text_config, "rope_parameters", None) or {}
    return isinstance(rope, dict) and "mrope_section" in rope
