"""Catches: negative rates after a restart, engines that overwrite each other, acceptance above what was drafted."""

from dataclasses import replace

from tests.vllm_mtp.monitor.cases import METRICS, traffic, with_values
from vllm_mtp.monitor.scrape import Scrape, parse
from vllm_mtp.monitor.traffic import Traffic, joined

_START = {
    "generation_tokens_total": 100,
    "spec_decode_num_drafts_total": 50,
    "spec_decode_num_draft_tokens_total": 150,
    "spec_decode_num_accepted_tokens_per_pos_total__0": 30,
    "spec_decode_num_accepted_tokens_per_pos_total__1": 20,
    "spec_decode_num_accepted_tokens_per_pos_total__2": 10,
}


def scrape_of(text: str, time_s: float = 0.0) -> Scrape:
    return replace(parse(text, "url"), time_s=time_s)


def later(**more: float) -> str:
    return with_values(**{name: value + more.get(name, 0) for name, value in _START.items()})


def test_what_came_between_two_looks() -> None:
    more = {"generation_tokens_total": 20, "spec_decode_num_drafts_total": 10}
    more |= {"spec_decode_num_draft_tokens_total": 30, "spec_decode_num_accepted_tokens_per_pos_total__0": 6}
    found = Traffic.between(scrape_of(later()), scrape_of(later(**more), 4.0))
    assert (found.seconds, found.num_tokens) == (4.0, 20)
    assert found.acceptance == traffic(10, 6, 0, 0).acceptance


def test_engines_are_added_up() -> None:
    one = later()
    two = one + "\n".join(line.replace('engine="0"', 'engine="1"') for line in one.splitlines() if "engine" in line)
    nothing = replace(scrape_of(one), counters={})
    assert Traffic.between(nothing, scrape_of(two, 1.0)).acceptance == traffic(100, 60, 40, 20).acceptance


def test_an_engine_that_started_again_counts_from_its_start() -> None:
    """Its counters fall; those that are above what they were are not taken for differences."""
    before = later()
    again = later(generation_tokens_total=50, spec_decode_num_drafts_total=-25)
    found = Traffic.between(scrape_of(before), scrape_of(again, 1.0))
    assert found.num_tokens == 150
    assert found.acceptance == traffic(25, 25, 20, 10, num_draft_tokens=150).acceptance


def test_a_server_without_a_drafter() -> None:
    plain = "\n".join(line for line in METRICS.read_text().splitlines() if "spec_decode" not in line) + "\n"
    found = Traffic.between(scrape_of(plain), scrape_of(plain, 1.0))
    assert found.acceptance is None
    assert joined([found, found]).acceptance is None


def test_stretches_are_joined_and_another_k_is_left_out() -> None:
    parts = [traffic(9, 9, 9), traffic(10, 5, 2, 1), traffic(30, 15, 6, 3)]
    whole = joined(parts)
    assert (whole.seconds, whole.num_tokens) == (30, 3000)
    assert whole.acceptance == traffic(40, 20, 8, 4).acceptance
