"""The drafter's folder by itself."""

from collections.abc import Iterator

from vllm_mtp.contract.config import path_fault
from vllm_mtp.contract.ranks import head_bytes, kv_bytes_per_token, kv_heads_of_rank, weight_bytes, why_not_divided
from vllm_mtp.contract.tensors import D2T, WEIGHTS_FILE, check_folder, check_values
from vllm_mtp.doctor.case import Case
from vllm_mtp.doctor.finding import Finding, error, ok, warning
from vllm_mtp.training.frozen.shape import TargetShape

_MIB = 2**20
_NAMES_OF_METHODS = ("ngram", "[ngram]")


def path_is_plain(case: Case) -> Iterator[Finding]:
    """vLLM will not take the folder's path for the name of another method."""
    named = "method" in case.config.further_speculative()
    parts = case.draft.split(".")
    is_import_path = "/" not in case.draft and len(parts) > 1 and all(part.isidentifier() for part in parts)
    if fault := path_fault(case.draft):
        yield error(fault)
    elif not named and (is_import_path or case.draft in _NAMES_OF_METHODS):
        what = "a Python class" if is_import_path else "a method"
        yield error(
            f'vLLM takes {case.draft!r} for the name of {what}: give "method": "mtp" (--spec-method mtp) too, or '
            f"./{case.draft}"
        )
    else:
        yield ok(case.draft)


def folder_keeps_the_contract(case: Case) -> Iterator[Finding]:
    """config.json, the tensors' names, shapes and dtypes, and their values."""
    from safetensors import safe_open
    from safetensors.torch import load_file

    path, shapes = case.folder / WEIGHTS_FILE, case.draft_config.tensor_shapes()
    check_folder(case.folder, shapes)
    with safe_open(str(path), framework="pt") as file:
        dtypes = {name: str(file.get_slice(name).get_dtype()) for name in shapes}
    check_values(load_file(path), case.draft_config.vocab_size, where=str(path))
    kinds = ", ".join(sorted({dtype for name, dtype in dtypes.items() if name != D2T}))
    yield ok(f"{len(shapes)} tensors in {kinds}, as config.json says")


def ranks_divide_it(case: Case) -> Iterator[Finding]:
    """Drafter and target can be split over the tensor-parallel ranks."""
    size = case.config.tensor_parallel_size
    # Some targets have other heads in every layer, and raise where they are asked for one number.
    heads = getattr(case.text_config, "num_attention_heads", 0) if size > 1 else 0
    fault = why_not_divided(case.draft_config, size)
    if isinstance(heads, int) and heads % size:
        yield error(f"the target's {heads} attention heads cannot be split over {size} ranks: vLLM refuses it")
    elif fault:
        yield error(fault)
    else:
        yield ok(f"{size} rank{'s' if size > 1 else ''}")


def memory_of_a_rank(case: Case) -> Iterator[Finding]:
    """What the drafter costs beside the target."""
    from vllm_mtp.serving.projection import has_kernels

    size = case.config.tensor_parallel_size
    weights = weight_bytes(case.draft_config, case.element_size, size) + head_bytes(
        case.draft_config,
        case.element_size,
        size,
        is_rounded=bool(case.draft_config.draft_head_dtype) and case.drafts_greedily,
        in_8_bits=has_kernels(),
    )
    kv = kv_bytes_per_token(case.draft_config, case.kv_element_size, size)
    yield ok(
        f"on each rank about {weights / _MIB:,.1f} MiB of weights, and {kv:,} bytes of KV cache per token "
        f"({kv * case.max_model_len / _MIB:,.1f} MiB for {case.max_model_len:,} tokens)"
    )
    if text := _why_many_groups(case):
        yield warning(text)
    if logits := _draft_logits_bytes(case):
        num_requests = case.engine_config.scheduler_config.max_num_seqs
        yield ok(
            f"on each rank {logits / _MIB:,.1f} MiB of draft logits, which vLLM's V2 model runner keeps for "
            f'"draft_sample_method": "probabilistic", of {num_requests} requests at once: fewer with --max-num-seqs'
        )


def _why_many_groups(case: Case) -> str | None:
    """vLLM groups the layers of a target with windows by the shape of their keys, so many to a group as the least
    frequent shape has layers: one, where the drafter's is its own."""
    kinds = set(getattr(case.text_config, "layer_types", None) or ())
    is_one_group = case.engine_config.scheduler_config.disable_hybrid_kv_cache_manager
    if is_one_group or not {"sliding_attention", "full_attention"} <= kinds:
        return None
    target, size = TargetShape.of(case.text_config), case.config.tensor_parallel_size
    own = case.draft_config
    drafter = kv_heads_of_rank(own.num_key_value_heads, size), own.head_dim, case.kv_element_size
    wanted = kv_heads_of_rank(target.num_key_value_heads, size), target.head_dim, case.kv_element_size_of_target
    if drafter == wanted:
        return None
    return (
        "beside a target with sliding windows vLLM gives every layer a group of the KV cache of its own, which takes "
        "time in every pass, where the drafter's keys have not the shape of the target's full attention: on each rank "
        "expected {} key-value heads of {} elements of {} bytes, got {} of {} of {}".format(*wanted, *drafter)
    )


def _draft_logits_bytes(case: Case) -> int:
    """What the V2 runner keeps to sample from drafts, whole on every rank: requests x K x the target's vocabulary."""
    config = case.engine_config
    speculative = config.speculative_config
    if getattr(speculative, "draft_sample_method", None) != "probabilistic":
        return 0
    num_rows = config.scheduler_config.max_num_seqs * speculative.num_speculative_tokens
    return int(num_rows * config.model_config.get_vocab_size() * config.model_config.head_dtype.itemsize)
