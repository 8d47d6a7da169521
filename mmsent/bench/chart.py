"""The chart of `mmsent bench --plot`."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from mmsent.bench.timing import Kind, Timing
from mmsent.bench.verdict import three_figures

__all__ = ["plot_timings"]


def plot_timings(timings: Sequence[Timing], path: Path) -> None:
    """Draw samples per second of what was measured, one bar each, on a scale of powers of ten."""
    shown = [timing for timing in timings if timing.samples_per_second and timing.group != "reading"]
    figure = Figure(figsize=(9, 1.2 + 0.38 * len(shown)), layout="constrained")
    axes = figure.subplots()
    places = range(len(shown))
    rates = [timing.median for timing in shown]
    spread = [timing.spread for timing in shown]
    errors = [
        [rate - low for rate, (low, _) in zip(rates, spread, strict=True)],
        [high - rate for rate, (_, high) in zip(rates, spread, strict=True)],
    ]
    axes.barh(
        places, rates, xerr=errors, color=[_COLOURS[timing.kind] for timing in shown], ecolor="dimgrey", capsize=3
    )
    axes.set_xscale("log")
    axes.set_xlim(min(rates) / 3, max(rates) * 6)
    axes.set_yticks(places, [timing.name for timing in shown], parse_math=False)
    axes.invert_yaxis()
    for place, rate, (_, high) in zip(places, rates, spread, strict=True):
        axes.text(high * 1.15, place, three_figures(rate), va="center")
    axes.set_xlabel("samples/s, median; lines from the lowest to the highest")
    axes.set_title("mmsent bench")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.savefig(path, dpi=120)


_COLOURS: dict[Kind, str] = {
    "limit": "lightgrey",
    "ours": "tab:blue",
    "other": "tab:orange",
    "headroom": "darkseagreen",
    "fed": "tab:green",
}
