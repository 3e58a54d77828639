"""What vLLM itself says of the pair, and how long contexts and requests fare."""

import inspect
import re
import sys
from collections.abc import Iterator

from vllm_mtp.contract.config import ARCHITECTURE
from vllm_mtp.contract.lookup import Lookup
from vllm_mtp.contract.pair import IN_DECODER, beyond_training, is_usual_embedding, stored_embedding
from vllm_mtp.doctor.case import Case
from vllm_mtp.doctor.finding import Finding, error, ok, warning

_MODELS = "vllm.model_executor.models."
_PARTS = (
    re.compile(r"self\.model\b\s*[:=]"),
    re.compile(r"self\.(embed_tokens|embedding)\b\s*[:=]|def embed_tokens\b"),
)
"""What vLLM's proposer asks of a target's class: a model, and of that the embedding."""
_EPSILON = 1e-5
"""vLLM takes a min_p up to this for none."""


def vllm_accepts_it(case: Case) -> Iterator[Finding]:
    """vLLM makes its config of these arguments, as it does first of all, and takes the drafter for MTP."""
    try:
        speculative = case.engine_config.speculative_config
    except Exception as refused:  # of any kind: vLLM's own, pydantic's, transformers'
        yield error(f"vLLM refuses it: {_reason(refused)}")
        return
    architectures = list(speculative.draft_model_config.architectures)
    if speculative.method != "mtp" or ARCHITECTURE not in architectures:
        yield error(
            f"vLLM takes the drafter for method {speculative.method!r}, {', '.join(architectures)}: give "
            '"method": "mtp" (--spec-method mtp), and a path without names of other methods'
        )
    else:
        yield ok(f"method mtp, {speculative.num_speculative_tokens} draft tokens, max_model_len {case.max_model_len:,}")


def embedding_is_shared(case: Case) -> Iterator[Finding]:
    """vLLM's class of the target keeps its embedding where vLLM's draft models look for it."""
    from vllm.model_executor.model_loader.utils import get_model_cls

    config = case.engine_config.model_config
    name = stored_embedding(case.target, revision=case.config.engine_options.revision)
    if is_usual_embedding(name) or config.is_multimodal_model:
        yield ok("nothing known against it")
        return
    cls = get_model_cls(config)
    if IN_DECODER not in name and has_embed_tokens(cls):
        yield ok(f"{cls.__name__} has it")
    else:
        yield error(
            f"vLLM's {cls.__name__} has no model.embed_tokens, which its draft models share: vLLM ends when "
            "it is given any drafter for this target"
        )


def has_embed_tokens(cls: type) -> bool:
    """Whether the files of a vLLM model class, and of the classes that it is made of, set the names that count."""
    parts = [one for one in vars(sys.modules[cls.__module__]).values() if isinstance(one, type)]
    files = {base.__module__ for one in (cls, *parts) for base in one.__mro__ if base.__module__.startswith(_MODELS)}
    sources = [inspect.getsource(sys.modules[name]) for name in files]
    return all(any(part.search(source) for source in sources) for part in _PARTS)


def context_is_trained(case: Case) -> Iterator[Finding]:
    """The drafter was trained on contexts as long as those that are served."""
    trained = case.draft_config.trained_length
    drafted = case.engine_config.speculative_config.draft_model_config.max_model_len
    if text := beyond_training(case.draft_config, case.max_model_len):
        yield warning(text)
    elif trained is None:
        yield warning(
            "config.json does not say how long contexts it was trained on (an earlier drafter): beyond them fewer "
            "drafts are accepted; `vllm-mtp bench acceptance` shows acceptance by context"
        )
    else:
        yield ok(f"trained on up to {trained:,} tokens")
    if drafted < case.max_model_len:
        if getattr(case.engine_config, "use_v2_model_runner", False):
            what = "vLLM's V2 model runner passes it over and drafts at every length"
        else:
            what = "as soon as one request of a batch is longer, nothing is drafted for all of it, in silence"
        yield warning(f"speculative_config has max_model_len {drafted:,}: {what}; leave it out")
    if any("rope" in name for name in case.config.overrides()):
        yield warning(
            "hf_overrides change the target's RoPE: its hidden states are not those that the drafter was trained on, "
            "fewer drafts may be accepted (output stays the target's); train it on the changed target where that costs"
        )


def default_requests_pass(case: Case) -> Iterator[Finding]:
    """A request that names no sampling settings gets the target's own: vLLM refuses some beside speculation."""
    defaults = case.engine_config.model_config.get_diff_sampling_param()
    min_p = defaults.get("min_p") or 0
    is_decided = case.config.further_speculative().get("draft_sample_method") is not None
    if min_p > _EPSILON:
        yield error(
            f"the target's generation_config.json has min_p {min_p}, which vLLM refuses beside speculative decoding: "
            "every request that does not set min_p to 0 itself gets an error 400. Serve with "
            """--override-generation-config '{"min_p": 0}', or --generation-config vllm"""
        )
    elif defaults.get("temperature", 0) and not (is_decided or case.drafts_greedily):
        yield ok(
            f"sampled at temperature {defaults['temperature']} by default: with "
            '"draft_sample_method": "probabilistic" in speculative_config more drafts are accepted'
        )
    else:
        yield ok("the target's default sampling settings")


def options_go_together(case: Case) -> Iterator[Finding]:
    """Options of the engine that the drafter, or vLLM beside any drafter, does not bear: what serving says of them."""
    from vllm_mtp.serving.options_check import (
        refused_options,
        why_copies_are_wrong,
        why_head_dtype_is_off,
        why_weights_are_random,
    )
    from vllm_mtp.serving.request_check import why_no_prompt_embeds, why_sleep_ends_drafting

    config = case.engine_config
    faults = [*refused_options(case.draft_config, config), why_no_prompt_embeds(config)]
    losses = [
        why_sleep_ends_drafting(config.model_config),
        why_head_dtype_is_off(case.draft_config, config.speculative_config),
        why_weights_are_random(config),
        why_copies_are_wrong(case.draft_config, config),
        _why_no_schedule(case),
        _why_quantized(case.config.further_speculative().get("quantization")),
    ]
    found = [*(error(text) for text in faults if text), *(warning(text) for text in losses if text)]
    yield from found or [ok("nothing that excludes a drafter")]


def lookup_is_on(case: Case) -> Iterator[Finding]:
    """What config.json asks of lookup, and whether it gets it."""
    from vllm_mtp.serving.options_check import why_lookup_is_off

    lookup = Lookup.of(case.draft_config.lookup)
    if why := why_lookup_is_off(case.draft_config, case.engine_config):
        yield warning(f"lookup will be off, the module drafts every token: {why}")
    elif lookup:
        yield ok(f"copies matches of {lookup.min_match} to {lookup.max_match} tokens")
    else:
        yield ok("no lookup: the module drafts every token (`vllm-mtp lookup` changes that)")


def _why_no_schedule(case: Case) -> str | None:
    """vLLM leaves a schedule out, with a line in its log, where batches of several engines must be alike."""
    asked = "num_speculative_tokens_per_batch_size"
    speculative = case.engine_config.speculative_config
    if asked not in case.config.further_speculative() or getattr(speculative, asked, None):
        return None
    return (
        f"{asked} is left out by vLLM beside data_parallel_size above 1: it drafts "
        f"{speculative.num_speculative_tokens} tokens at every load. Choose num_speculative_tokens for the usual load, "
        "or serve several servers of one engine behind a balancer"
    )


def _why_quantized(method: str | None) -> str | None:
    if not method:
        return None
    return (
        f'"quantization": {method!r} for the drafter was not tried: leave it out if vLLM does not start; the drafter '
        "is small"
    )


def _reason(error: Exception) -> str:
    """One line of what was refused: of pydantic's list the message alone."""
    listed = getattr(error, "errors", None)
    text = "; ".join(str(one.get("msg", one)) for one in listed()) if callable(listed) else str(error)
    return " ".join(text.removeprefix("Value error, ").split()) or type(error).__name__
