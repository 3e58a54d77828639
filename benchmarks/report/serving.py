"""What `bench serving` found, as a section: throughput and latency over the requests at once."""

from collections.abc import Sequence

from vllm_mtp.benchmarks.harness.report import made_on, number, options_text
from vllm_mtp.benchmarks.report.charts import Line, lines
from vllm_mtp.benchmarks.report.gain import Gain, gains_of
from vllm_mtp.benchmarks.report.page import Figure, Section, Table
from vllm_mtp.benchmarks.report.source import Row, Source, name_of, not_measured
from vllm_mtp.benchmarks.serving.load import PERCENTILES

_LOADS = "requests at once"
_LATENCIES = {"ttft": "Time to the first token", "tpot": "Time per output token after the first"}


def section(source: Source, name: str) -> Section:
    """The section; `name` is its plots' prefix."""
    rows, settings = source.result["rows"], source.settings
    bounds = ", ".join(settings["bounds"])
    within = f"Goodput is of requests within {bounds} milliseconds." if bounds else ""
    return Section(
        title=f"Served: {source.pair}",
        about=(
            f"{settings['max_tokens']} tokens a request, temperature {settings['temperature']:g}, {settings['dtype']}, "
            f"{'eager' if settings['enforce_eager'] else 'torch.compile'}{options_text(settings)}, by vllm bench "
            f"serve. {made_on(*source.origins)}."
        ),
        notes=[
            *filter(None, [_how(source), within]),
            *not_measured(source),
        ],
        figures=[
            _throughput(rows, f"{name}-throughput"),
            *_ratios(gains_of(source), list(_by_method(rows)), f"{name}-ratio"),
            *(_latency(rows, metric, f"{name}-{metric}") for metric in _LATENCIES),
        ],
    )


def _how(source: Source) -> str:
    repeats = source.result.get("repeats")
    if repeats is None:
        return "Each row is of one server, once: ratios have no intervals."
    return f"Intervals are 95%, over {'requests' if repeats == 1 else f'{repeats} servers each, and requests'}."


def _by_method(rows: Sequence[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(name_of(row), []).append(row)
    return found


def _throughput(rows: Sequence[Row], name: str) -> Figure:
    found = [
        Line(label=method, points=[(row["concurrency"], row["output_tokens_per_s"]) for row in some])
        for method, some in _by_method(rows).items()
    ]
    return Figure(
        title="Output tokens a second, all requests together",
        svg=lines(name, found, x=_LOADS, y="tokens/s", loads=True),
        table=Table(
            columns=[_LOADS, "method", "tokens/s", "requests/s", "goodput, requests/s", "acceptance length"],
            rows=[
                [
                    str(row["concurrency"]),
                    name_of(row),
                    f"{row['output_tokens_per_s']:.1f}",
                    number(row["requests_per_s"]),
                    number(row["goodput_requests_per_s"]),
                    number(row.get("acceptance_length")),
                ]
                for row in rows
            ],
        ),
    )


def _ratios(gains: Sequence[Gain], methods: Sequence[str], name: str) -> list[Figure]:
    """Each method in the colour that it has in other plots; nothing where no speculation was not measured beside."""
    by_method = {method: [gain for gain in gains if gain.method == method] for method in methods}
    found = [
        Line(
            label=method,
            points=[(gain.load, gain.speedup) for gain in some],
            bounds=[gain.speedup_95 for gain in some],
            colour=methods.index(method),
        )
        for method, some in by_method.items()
        if some
    ]
    if not found:
        return []
    table = Table(columns=[_LOADS, "method", "times as fast"], rows=[_ratio_cells(gain) for gain in gains])
    plot = lines(name, found, x=_LOADS, y="times as fast", loads=True, level=1)
    return [Figure(title="Tokens a second beside no speculation at the same load", svg=plot, table=table)]


def _ratio_cells(gain: Gain) -> list[str]:
    return [str(gain.load), gain.method, gain.times]


def _latency(rows: Sequence[Row], metric: str, name: str) -> Figure:
    keys = [f"{metric}_p{percent}_ms" for percent in PERCENTILES]
    found = [
        Line(
            label=method,
            points=[(row["concurrency"], row[keys[0]]) for row in some],
            bounds=[(row[keys[0]], row[keys[-1]]) for row in some],
            is_band=True,
        )
        for method, some in _by_method(rows).items()
    ]
    return Figure(
        title=f"{_LATENCIES[metric]} (line: half of the requests, area: up to 99%)",
        svg=lines(name, found, x=_LOADS, y="milliseconds", loads=True),
        table=Table(
            columns=[_LOADS, "method", *(f"p{percent}, ms" for percent in PERCENTILES)],
            rows=[[str(row["concurrency"]), name_of(row), *(number(row[key], 1) for key in keys)] for row in rows],
        ),
    )
