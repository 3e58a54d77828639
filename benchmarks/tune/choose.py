"""From predictions to one setting: the fastest, or a simpler one that is as fast. Pure functions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from vllm_mtp.benchmarks.harness.method import NONE, Method, Schedule, mtp
from vllm_mtp.benchmarks.tune.predict import Prediction
from vllm_mtp.contract.lookup import Lookup


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """What to serve with."""

    method: Method
    """NONE: do not speculate."""
    best: Method
    """What to verify: the same, or where that is NONE, what comes closest to paying."""
    by_batch_size: Mapping[int, Prediction]
    """Of `best`, with the K that it has there."""

    @property
    def settings(self) -> dict[int, Method]:
        """What `best` is at each batch size."""
        return {size: one.method for size, one in self.by_batch_size.items()}


def choose(
    predictions: Sequence[Prediction],
    for_batch_size: int,
    tolerance: float,
    own_lookup: Lookup | None,
    known: Sequence[Prediction] = (),
) -> Choice:
    """The setting for one batch size, with a K for each of the others.

    Args:
        predictions: of every setting at every batch size, those with K = 0 included.
        for_batch_size: the one that lookup is chosen for.
        tolerance: speeds that differ by less than this share are equal.
        own_lookup: what the drafter's config.json says; it is simpler than any other.
        known: some of them; where any is of that batch size and drafts, no other is chosen for it.
    """

    def complexity(one: Prediction) -> tuple[bool, int, int]:
        lookup = one.method.lookup
        steps = lookup.module_steps if isinstance(lookup, Lookup) else 0
        return lookup != (own_lookup or "off"), one.method.num_speculative_tokens, steps

    known_there = [one for one in known if one.batch_size == for_batch_size and one.method.num_speculative_tokens]
    main = [one for one in predictions if one.batch_size == for_batch_size and one.method.num_speculative_tokens]
    main = known_there or main
    chosen = min(_equal_to_best(main, tolerance), key=complexity)
    of_lookup = [one for one in predictions if one.method.lookup == chosen.method.lookup]
    by_batch_size = _by_batch_size(of_lookup, chosen, tolerance)
    method = _scheduled(chosen.method, {size: one.method.num_speculative_tokens for size, one in by_batch_size.items()})
    pays = max(one.speedup for one in main) >= 1 + tolerance
    return Choice(method=method if pays else NONE, best=method, by_batch_size=by_batch_size)


def contenders(predictions: Sequence[Prediction], choice: Choice, for_batch_size: int, batch_size: int) -> list[Method]:
    """What may yet be chosen at a batch size, what is chosen now before all others, then by speedup.

    Args:
        predictions: as for `choose`.
        choice: by `choose`.
        for_batch_size: as for `choose`: there any lookup may be.
        batch_size: the one that is asked about.
    """
    chosen = choice.settings[batch_size]
    some = [
        one
        for one in predictions
        if one.batch_size == batch_size
        and one.method != chosen
        and (one.method.num_speculative_tokens if batch_size == for_batch_size else one.method.lookup == chosen.lookup)
    ]
    return [chosen, *(one.method for one in sorted(some, key=lambda one: -one.speedup))]


def _equal_to_best(some: Sequence[Prediction], tolerance: float) -> list[Prediction]:
    best = max(one.speedup for one in some)
    return [one for one in some if one.speedup >= best * (1 - tolerance)]


def _by_batch_size(some: Sequence[Prediction], chosen: Prediction, tolerance: float) -> dict[int, Prediction]:
    """From the chosen batch size to larger and to smaller ones: the K of the one beside it as long as it is as good.

    A larger batch never gets a larger K: a further row of each request costs it more, and what says otherwise is noise.
    """
    sizes = sorted({one.batch_size for one in some})
    place = sizes.index(chosen.batch_size)
    found = {chosen.batch_size: chosen}
    for way, sign in ((sizes[place + 1 :], -1), (sizes[:place][::-1], 1)):
        k = chosen.method.num_speculative_tokens
        for size in way:
            of_size = [one for one in some if one.batch_size == size]
            allowed = [one for one in of_size if sign * (one.method.num_speculative_tokens - k) >= 0]
            equal = {one.method.num_speculative_tokens: one for one in _equal_to_best(allowed, tolerance)}
            k = min(equal, key=lambda other: abs(other - k))
            found[size] = equal[k]
    return dict(sorted(found.items()))


def _scheduled(method: Method, k_of: Mapping[int, int]) -> Method:
    largest = max(k_of.values())
    schedule = schedule_from(k_of) if len(set(k_of.values())) > 1 else ()
    return replace(mtp(largest, local_argmax=method.local_argmax, lookup=method.lookup), schedule=schedule)


def schedule_from(k_of: Mapping[int, int]) -> Schedule:
    """Ranges of batch sizes with their K; between two sizes with different K the border is half way.

    vLLM goes on with the last K beyond the last range.

    Args:
        k_of: K by batch size.
    """
    ranges: list[tuple[int, int, int]] = []
    sizes = sorted(k_of)
    for size, after in zip(sizes, [*sizes[1:], None], strict=True):
        last = size if after is None else (size + after - 1) // 2
        if ranges and ranges[-1][2] == k_of[size]:
            ranges[-1] = (ranges[-1][0], last, k_of[size])
        else:
            ranges.append((ranges[-1][1] + 1 if ranges else 1, last, k_of[size]))
    return tuple(ranges)
