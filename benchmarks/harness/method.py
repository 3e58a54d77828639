"""How an engine drafts: not at all, with the MTP drafter, or as one of the baselines that need no trained drafter."""

import importlib.util
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm_mtp.common.errors import InputError
from vllm_mtp.contract.lookup import Lookup

DRAFTER, OFF = "drafter", "off"
Schedule = tuple[tuple[int, int, int], ...]
"""(first batch size, last batch size, K) of each range."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Method:
    """One way of drafting, as vLLM's `speculative_config` names it."""

    name: str
    """"none", "mtp" or a baseline's."""
    num_speculative_tokens: int
    """K; 0 for "none". Baselines may draft fewer tokens, or none, in a round."""
    fields: tuple[tuple[str, Any], ...] = ()
    """What else a baseline's `speculative_config` has."""
    package: str = ""
    """Module that must be installed, besides vLLM."""
    needs_gpu: bool = False
    """Its drafts are made on one."""
    remembers: bool = False
    """Drafts from earlier outputs: a second measurement of the same prompts needs a new engine."""
    local_argmax: bool = False
    """Whether the MTP drafter gives vLLM its best token instead of logits."""
    lookup: Lookup | str = DRAFTER
    """Lookup of the MTP drafter: "drafter" is what its config.json says, "off" is none."""
    schedule: Schedule = ()
    """K of the MTP drafter by the number of requests in a round; empty: K is always the same."""

    def __str__(self) -> str:
        return self.name if self.name == "none" else f"{self.label} k = {self.num_speculative_tokens}"

    @property
    def is_baseline(self) -> bool:
        return self.name not in ("none", "mtp")

    @property
    def details(self) -> list[str]:
        """What tells it from others of its name and K."""
        found = []
        if self.lookup != DRAFTER:
            found.append(lookup_label(self.lookup) if isinstance(self.lookup, Lookup) else "no lookup")
        if self.schedule:
            found.append("scheduled " + " ".join(":".join(map(str, one)) for one in self.schedule))
        return [*found, "local argmax"] if self.local_argmax else found

    @property
    def label(self) -> str:
        """For tables, beside K."""
        return ", ".join([self.name, *self.details])

    @property
    def slug(self) -> str:
        """For names of files."""
        details = [re.sub("[^a-z0-9]+", "-", one).removeprefix("local-") for one in self.details]
        return "-".join([f"{self.name}-k{self.num_speculative_tokens}", *details])

    def about(self) -> dict[str, Any]:
        """What rows say of it; `method_of` reads it."""
        about = {
            "method": self.name,
            "num_speculative_tokens": self.num_speculative_tokens,
            "local_argmax": self.local_argmax,
        }
        if self.lookup != DRAFTER:
            about["lookup"] = self.lookup.fields() if isinstance(self.lookup, Lookup) else self.lookup
        return about | ({"schedule": self.schedule} if self.schedule else {})

    def speculative_config(self, draft: Path | None) -> dict[str, Any] | None:
        """What vLLM gets; None for no speculation."""
        if self.name == "none":
            return None
        config = {"num_speculative_tokens": self.num_speculative_tokens}
        if self.is_baseline:
            return {"method": self.name, **config, **dict(self.fields)}
        # vLLM takes local argmax or probabilistic drafting, not both; the latter concerns temperatures above 0 only:
        # greedy requests are drafted greedily.
        how = {"use_local_argmax_reduction": True} if self.local_argmax else {"draft_sample_method": "probabilistic"}
        schedule = {"num_speculative_tokens_per_batch_size": self.schedule} if self.schedule else {}
        return {"model": str(draft), **config, **how, **schedule}

    def why_missing(self) -> str:
        """Why it cannot run in this environment; empty if it can, as far as can be told without trying."""
        if self.package and importlib.util.find_spec(self.package) is None:
            requirement = ARCTIC if self.package == "arctic_inference" else self.package
            return f"needs {requirement}, which is not installed (pip install --no-deps {requirement})"
        if self.needs_gpu:
            import torch

            return "" if torch.cuda.is_available() else "needs a GPU"
        return ""


# The version that vLLM 0.32 names. It brings a vLLM plugin of its own; engines here load only ours (engine.py).
ARCTIC = "arctic-inference==0.1.1"
NONE = Method(name="none", num_speculative_tokens=0)
BASELINES = {
    "ngram": Method(
        name="ngram", num_speculative_tokens=5, fields=(("prompt_lookup_min", 2), ("prompt_lookup_max", 3))
    ),
    # Beside "ngram" vLLM does not schedule ahead, as it does beside a drafter.
    "ngram-gpu": Method(
        name="ngram-gpu",
        num_speculative_tokens=5,
        fields=(("method", "ngram_gpu"), ("prompt_lookup_min", 2), ("prompt_lookup_max", 3)),
        needs_gpu=True,
    ),
    "suffix": Method(name="suffix", num_speculative_tokens=8, package="arctic_inference", remembers=True),
    "suffix-f2": Method(  # up to two tokens drafted for each that matched; vLLM's default is one
        name="suffix-f2",
        num_speculative_tokens=8,
        fields=(("method", "suffix"), ("suffix_decoding_max_spec_factor", 2.0)),
        package="arctic_inference",
        remembers=True,
    ),
}


def mtp(
    num_speculative_tokens: int, *, local_argmax: bool = False, lookup: Lookup | str = DRAFTER, schedule: Schedule = ()
) -> Method:
    """The MTP drafter with K draft tokens per round, or at most K where a schedule says how many."""
    return Method(
        name="mtp",
        num_speculative_tokens=num_speculative_tokens,
        local_argmax=local_argmax,
        lookup=lookup,
        schedule=schedule,
    )


def baselines(names: Iterable[str]) -> list[Method]:
    """The baselines of these names, in order.

    Raises:
        ValueError: for a name that is not a baseline.
    """
    wanted = dict.fromkeys(names)
    unknown = [name for name in wanted if name not in BASELINES]
    if unknown:
        raise InputError("baselines", f"expected some of {', '.join(BASELINES)}, got {', '.join(unknown)}")
    return [BASELINES[name] for name in wanted]


def lookups(words: Iterable[str]) -> list[Lookup | str]:
    """Settings of the drafter's lookup: "drafter", "off", or JSON as in its config.json.

    Raises:
        ValueError: for another word, or for settings that config.json could not have.
    """

    def of(word: str) -> Lookup | str:
        try:
            return word if word in (DRAFTER, OFF) else Lookup.of(json.loads(word)) or OFF
        except ValueError as error:
            example = json.dumps(Lookup().fields())
            raise InputError("lookup", f"expected {DRAFTER}, {OFF} or {example}, got {word} ({error})") from error

    return list(dict.fromkeys(of(word) for word in words))


def lookup_label(lookup: Lookup) -> str:
    """For tables."""
    return f"lookup {lookup.min_match}-{lookup.max_match}, {lookup.module_steps} steps"


def schedule_of(words: Sequence[str]) -> Schedule:
    """The schedule of ranges FIRST:LAST:K, sorted.

    Raises:
        ValueError: for ranges that vLLM refuses, or that never draft.
    """
    try:
        ranges = sorted((int(first), int(last), int(k)) for first, last, k in (word.split(":") for word in words))
    except ValueError:
        ranges = [(0, 0, 0)]
    ends = [0, *(last for _, last, _ in ranges)]
    ordered = all(end < first <= last and k >= 0 for end, (first, last, k) in zip(ends, ranges, strict=False))
    if ranges and (not ordered or ranges[0][0] != 1 or not any(k for _, _, k in ranges)):
        raise InputError(
            "schedule",
            "expected ranges of batch sizes FIRST:LAST:K that begin with 1, do not overlap and draft in one of them, "
            f"such as 1:4:5 5:16:1; got {' '.join(words)}",
        )
    return tuple(ranges)


def method_of(row: Mapping[str, Any]) -> Method:
    """The method of a stored row."""
    if row["method"] == "mtp":
        lookup = row.get("lookup", DRAFTER)
        return mtp(
            row["num_speculative_tokens"],
            local_argmax=row.get("local_argmax", False),
            lookup=lookup if isinstance(lookup, str) else Lookup(**lookup),
            schedule=tuple((first, last, k) for first, last, k in row.get("schedule", ())),
        )
    return NONE if row["method"] == "none" else BASELINES[row["method"]]
