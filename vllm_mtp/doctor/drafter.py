"""The drafter's folder by itself."""

from collections.abc import Iterator

from vllm_mtp.contract.config import path_fault
from vllm_mtp.contract.lookup import LARGEST_VOCABULARY, Lookup
from vllm_mtp.contract.ranks import kv_bytes_per_token, weight_bytes, why_not_divided
from vllm_mtp.contract.tensors import D2T, WEIGHTS_FILE, check_folder, check_values
from vllm_mtp.doctor.case import Case
from vllm_mtp.doctor.finding import Finding, error, ok, warning

_DTYPES = {"BF16", "F16", "F32"}
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
    others = sorted({dtype for name, dtype in dtypes.items() if name != D2T} - _DTYPES)
    if others:
        yield error(f"{path} has tensors in {', '.join(others)}: quantized drafters cannot be served; export it again")
        return
    check_values(load_file(path), case.draft_config.vocab_size, where=str(path))
    kinds = ", ".join(sorted({dtype for name, dtype in dtypes.items() if name != D2T}))
    yield ok(f"{len(shapes)} tensors in {kinds}, as config.json says")


def head_and_lookup(case: Case) -> Iterator[Finding]:
    """What config.json asks for and would not get."""
    config, further = case.draft_config, case.config.further_speculative()
    if further.get("quantization"):
        yield warning(
            f'"quantization": {further["quantization"]!r} for the drafter was not tried: leave it out if vLLM does not '
            "start; the drafter is small"
        )
    if config.draft_head_dtype and not further.get("use_local_argmax_reduction"):
        yield warning(
            f"the draft head in {config.draft_head_dtype} takes effect only with "
            '"use_local_argmax_reduction": true in speculative_config'
        )
    lookup = Lookup.of(config.lookup)
    if lookup and config.vocab_size > LARGEST_VOCABULARY:
        yield warning(f"lookup will be off: vocab_size {config.vocab_size:,} is above {LARGEST_VOCABULARY:,}")
    elif lookup:
        yield ok(f"copies matches of {lookup.min_match} to {lookup.max_match} tokens")
    else:
        yield ok("no lookup: the module drafts every token (`vllm-mtp lookup` changes that)")


def ranks_divide_it(case: Case) -> Iterator[Finding]:
    """Drafter and target can be split over the tensor-parallel ranks."""
    size, heads = case.config.tensor_parallel_size, getattr(case.text_config, "num_attention_heads", 0)
    fault = why_not_divided(case.draft_config, size)
    if isinstance(heads, int) and heads % size:
        yield error(f"the target's {heads} attention heads cannot be split over {size} ranks: vLLM refuses it")
    elif fault:
        yield error(fault)
    else:
        yield ok(f"{size} rank{'s' if size > 1 else ''}")


def memory_of_a_rank(case: Case) -> Iterator[Finding]:
    """What the drafter costs beside the target."""
    size = case.config.tensor_parallel_size
    weights = weight_bytes(case.draft_config, case.element_size, size) / _MIB
    kv = kv_bytes_per_token(case.draft_config, case.element_size, size)
    yield ok(
        f"on each rank about {weights:,.1f} MiB of weights, and {kv:,} bytes of KV cache per token "
        f"({kv * case.max_model_len / _MIB:,.1f} MiB for {case.max_model_len:,} tokens)"
    )
