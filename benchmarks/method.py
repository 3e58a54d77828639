"""How an engine drafts: not at all, with the MTP drafter, or as one of its rivals that need no trained drafter."""

import importlib.util
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Method:
    """One way of drafting, as vLLM's `speculative_config` names it."""

    name: str
    """"none", "mtp", "ngram" or "suffix"."""
    num_speculative_tokens: int
    """K; 0 for "none". Rivals may draft fewer tokens, or none, in a round."""
    fields: tuple[tuple[str, Any], ...] = ()
    """Further fields of `speculative_config`."""
    package: str = ""
    """Module that must be installed, besides vLLM."""
    remembers: bool = False
    """Drafts from earlier outputs: a second measurement of the same prompts needs a new engine."""

    def __str__(self) -> str:
        return self.name if self.name == "none" else f"{self.label} k = {self.num_speculative_tokens}"

    @property
    def is_rival(self) -> bool:
        return self.name not in ("none", "mtp")

    @property
    def local_argmax(self) -> bool:
        """Whether the drafter gives vLLM its best token instead of logits."""
        return (_LOCAL_ARGMAX, True) in self.fields

    @property
    def label(self) -> str:
        """For tables, beside K."""
        return f"{self.name}, local argmax" if self.local_argmax else self.name

    @property
    def slug(self) -> str:
        """For names of files."""
        slug = f"{self.name}-k{self.num_speculative_tokens}"
        return f"{slug}-argmax" if self.local_argmax else slug

    def about(self) -> dict[str, Any]:
        """What rows say of it; `method_of` reads it."""
        return {
            "method": self.name,
            "num_speculative_tokens": self.num_speculative_tokens,
            "local_argmax": self.local_argmax,
        }

    def speculative_config(self, draft: Path | None) -> dict[str, Any] | None:
        """What vLLM gets; None for no speculation."""
        if self.name == "none":
            return None
        what = {"model": str(draft)} if self.name == "mtp" else {"method": self.name}
        return what | {"num_speculative_tokens": self.num_speculative_tokens} | dict(self.fields)

    def why_missing(self) -> str:
        """Why it cannot run in this environment; empty if it can, as far as can be told without trying."""
        if self.package and importlib.util.find_spec(self.package) is None:
            requirement = ARCTIC if self.package == "arctic_inference" else self.package
            return f"needs {requirement}, which is not installed (pip install --no-deps {requirement})"
        return ""


_LOCAL_ARGMAX = "use_local_argmax_reduction"
# The version that vLLM 0.32 names. It brings a vLLM plugin of its own; engines here load only ours (engine.py).
ARCTIC = "arctic-inference==0.1.1"
NONE = Method(name="none", num_speculative_tokens=0)
RIVALS = {
    "ngram": Method(
        name="ngram", num_speculative_tokens=5, fields=(("prompt_lookup_min", 2), ("prompt_lookup_max", 3))
    ),
    "suffix": Method(name="suffix", num_speculative_tokens=8, package="arctic_inference", remembers=True),
}


def mtp(num_speculative_tokens: int, *, local_argmax: bool = False) -> Method:
    """The MTP drafter with K draft tokens per round.

    "probabilistic" concerns temperatures above 0 only: greedy requests are drafted greedily. vLLM takes it or local
    argmax, not both: the latter is for greedy requests.
    """
    field = (_LOCAL_ARGMAX, True) if local_argmax else ("draft_sample_method", "probabilistic")
    return Method(name="mtp", num_speculative_tokens=num_speculative_tokens, fields=(field,))


def rivals(names: Iterable[str]) -> list[Method]:
    """The rivals of these names, in order; "none" stands for no rival.

    Raises:
        ValueError: for a name that is not a rival.
    """
    wanted = [name for name in names if name != "none"]
    unknown = [name for name in wanted if name not in RIVALS]
    if unknown:
        raise ValueError(f"--rivals: expected none or some of {', '.join(RIVALS)}, got {', '.join(unknown)}")
    return [RIVALS[name] for name in dict.fromkeys(wanted)]


def method_of(row: Mapping[str, Any]) -> Method:
    """The method of a stored row."""
    if row["method"] == "mtp":
        return mtp(row["num_speculative_tokens"], local_argmax=row.get("local_argmax", False))
    return NONE if row["method"] == "none" else RIVALS[row["method"]]
