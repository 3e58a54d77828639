"""training.png: what is drawn, and a run without matplotlib.

Catches: a run of hours that ends for want of a plot, a log of an earlier version that cannot be drawn.
"""

import sys
from pathlib import Path

import pytest

from tests.training.test_loop import STEP, TINY, save_target
from vllm_mtp.common.plots import write_plot
from vllm_mtp.training.config import TrainConfig
from vllm_mtp.training.loop import train
from vllm_mtp.training.plot import PLOT_FILE, plot
from vllm_mtp.training.record import Entry, HeldOut
from vllm_mtp.training.run import TrainInputs

INFO = {"tokens_seen": 4_000, "config": {"objective": "kl"}, "target": {"name": "t"}}


def entry(step: int, length: float | None) -> Entry:
    held_out = HeldOut(
        loss=1 / step,
        agreement_per_position=[0.5, 0.25],
        overlap_per_position=[0.5, 0.25],
        positions=9,
        acceptance_length=length,
        acceptance_length_95=None if length is None else (length - 0.1, length + 0.1),
    )
    return Entry(step=step, loss=1 / step, agreement_per_position=[0.5], held_out=held_out)


@pytest.mark.parametrize("lengths", [[1.5, 1.75], [None, 1.75], [None, None]])
def test_three_panels_over_tokens(lengths: list[float | None]) -> None:
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("Agg")
    figure = plot([entry(1, lengths[0]), entry(2, lengths[1])], INFO, pyplot)
    loss, agreement, length = figure.axes
    assert [line.get_xdata()[-1] for line in loss.lines] == [4_000, 4_000]
    assert [list(line.get_ydata()) for line in agreement.lines] == [[0.5, 0.5], [0.25, 0.25]]
    drawn = [list(line.get_ydata()) for line in length.lines]
    assert drawn == ([[one for one in lengths if one]] if any(lengths) else [])
    pyplot.close(figure)


def test_the_same_run_gives_the_same_bytes(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for name in ("a.png", "b.png"):
        assert write_plot(tmp_path / name, lambda pyplot: plot([entry(1, 1.5)], INFO, pyplot))
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize(
    ("missing", "said"),
    [("matplotlib", "No plot, for want of matplotlib."), ("matplotlib.pyplot", "No plot: ModuleNotFoundError")],
)
def test_without_matplotlib_a_line_says_so(
    missing: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if missing == "matplotlib.pyplot":
        pytest.importorskip("matplotlib")
        monkeypatch.delattr("matplotlib.pyplot", raising=False)
    monkeypatch.setitem(sys.modules, missing, None)
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog; " * 40)
    target = save_target(tmp_path / "target", tied=True)
    inputs = TrainInputs(target=str(target), data=[tmp_path / "text.txt"], output=tmp_path / "d", device="cpu")
    train(TrainConfig(tokens=2 * STEP, **TINY), inputs)
    assert said in capsys.readouterr().out
    assert (tmp_path / "d" / "model.safetensors").exists()
    assert not (tmp_path / "d" / PLOT_FILE).exists()
