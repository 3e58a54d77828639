"""What `vllm-mtp bench serving` measures. Light: the command line is built from it."""

from dataclasses import dataclass

from vllm_mtp.benchmarks.harness.method import NONE, Method, baselines, mtp
from vllm_mtp.benchmarks.harness.serving_options import ServingOptions
from vllm_mtp.common.settings import check_at_least, check_choices, check_temperature, setting


@dataclass(frozen=True, kw_only=True, slots=True)
class ServingConfig(ServingOptions):
    """What is measured."""

    num_speculative_tokens: tuple[int, ...] = setting((3,), "Every K of the drafter, beside no speculation.")
    baselines: tuple[str, ...] = setting(
        (), "Methods without a trained drafter, measured beside it: ngram, ngram-gpu, suffix, suffix-f2."
    )
    concurrency: tuple[int, ...] = setting((1, 2, 4, 8, 16, 32, 64), "Requests that are under way at once.")
    repeats: int = setting(
        3,
        "Servers of each method, in turn with those of the others: what varies between them is in the intervals. With "
        "one, intervals are over requests alone.",
    )
    requests_per_client: int = setting(4, "Requests of a row, for each that is under way at once.")
    min_requests: int = setting(16, "Requests of a row, at least.")
    max_tokens: int = setting(128, "Tokens generated for each request; end-of-text does not end it.")
    temperature: float = setting(0.0, "Of sampling; 0 is greedy.")
    max_ttft_ms: float | None = setting(
        None, "Bound on the time to first token, for goodput: requests a second within all bounds.", none="none"
    )
    max_tpot_ms: float | None = setting(None, "Bound on the time per output token after the first.", none="none")
    seed: int = setting(0, "Seed of the servers and of sampling.")

    def __post_init__(self) -> None:
        check_choices(self)
        check_at_least(self, num_speculative_tokens=1, concurrency=1, requests_per_client=1, min_requests=1)
        check_at_least(self, repeats=1, max_tokens=2, max_ttft_ms=0, max_tpot_ms=0)
        check_temperature(self)
        baselines(self.baselines)

    @property
    def methods(self) -> list[Method]:
        """All that is served, in the order of measuring; a drafter that samples where the requests do."""
        is_greedy = self.temperature == 0
        drafters = [mtp(k, local_argmax=is_greedy) for k in dict.fromkeys(self.num_speculative_tokens)]
        return [NONE, *drafters, *baselines(self.baselines)]

    def num_requests(self, concurrency: int) -> int:
        return max(self.min_requests, self.requests_per_client * concurrency)

    def bounds(self) -> list[str]:
        """What `vllm bench serve --goodput` is given; empty where nothing is bound."""
        given = {"ttft": self.max_ttft_ms, "tpot": self.max_tpot_ms}
        return [f"{name}:{bound:g}" for name, bound in given.items() if bound is not None]
