"""Names for the drafter's parts in a profile, beside those that vLLM gives to its own.

The draft class itself has none: a scope of torch costs ten microseconds even where no profiler runs, and a round would
have dozens of them.
"""

MODULE, HEAD, LOOKUP = "mtp: module", "mtp: head", "mtp: lookup"


def name_parts_of_drafter() -> None:
    """Has the draft class of this process tell a profiler when it is in which part."""
    from torch.profiler import record_function

    from vllm_mtp.serving.draft_model import MTPDraftModel
    from vllm_mtp.serving.lookup_on_host import HostLookup

    methods = {
        MODULE: (MTPDraftModel, ("forward",)),
        HEAD: (MTPDraftModel, ("compute_logits", "get_top_tokens")),
        LOOKUP: (HostLookup, ("begin", "end", "tokens")),
    }
    for scope, (owner, names) in methods.items():
        for name in names:
            setattr(owner, name, record_function(scope)(getattr(owner, name)))
