"""Pictures: the same colours and line styles for the same balancers everywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.simulate.clients import Record
from benchmarks.simulate.lab import percentile
from benchmarks.simulate.results import Result

__all__ = [
    "EJECTION",
    "LOOKS",
    "latency_curves",
    "logarithmic",
    "look",
    "over_time",
    "save",
    "share_over_time",
]

# Okabe and Ito's palette, made for every kind of colour vision; the line styles tell them apart in grey.
LOOKS: dict[str, dict[str, Any]] = {
    "round_robin": {"color": "#E69F00", "linestyle": "--"},
    "random": {"color": "#999999", "linestyle": ":"},
    "least_loaded": {"color": "#56B4E9", "linestyle": "-."},
    "peak_ewma": {"color": "#CC79A7", "linestyle": (0, (5, 1, 1, 1, 1, 1))},
    "p2c": {"color": "#0072B2", "linestyle": "-", "linewidth": 2.2},
}

EJECTION = ", ejection on"

_PERCENTILES = (50, 60, 70, 80, 85, 90, 93, 95, 97, 98, 99, 99.3, 99.5, 99.7, 99.8, 99.9, 99.95)
_TICKS = (50, 75, 90, 95, 99, 99.5, 99.9)


def latency_curves(axes: Any, latencies: Mapping[str, Sequence[float]]) -> None:
    """Latency by percentile; each nine is as wide as the one before.

    Args:
        axes: To draw on.
        latencies: In order, by label; a label that begins with a balancer's name looks like it.
    """
    from math import log10

    def place(percent: float) -> float:
        return -log10(1 - percent / 100)

    for label, ordered in latencies.items():
        values = [percentile(ordered, percent) * 1000 for percent in _PERCENTILES]
        axes.plot([place(percent) for percent in _PERCENTILES], values, label=label, **look(label))
    logarithmic(axes)
    axes.set_xticks([place(percent) for percent in _TICKS], [f"{percent:g}" for percent in _TICKS])
    axes.set_xlabel("percentile of calls [%]")
    axes.set_ylabel("latency [ms], log scale")


def logarithmic(axes: Any) -> None:
    """A log scale for milliseconds whose ticks are plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def over_time(axes: Any, series: Mapping[str, Sequence[tuple[float, float]]]) -> None:
    """Values over seconds; the last point of each series ends it."""
    for label, points in series.items():
        axes.plot(
            [moment for moment, _ in points], [value for _, value in points], label=label, **look(label)
        )
    axes.set_xlabel("time [s]")


def look(label: str) -> dict[str, Any]:
    """How a series is drawn: as the balancer its label begins with, unless it has ejection on."""
    if label.endswith(EJECTION):
        return {"color": "#009E73", "linestyle": "-"}
    return LOOKS.get(label.partition(",")[0], {})


def share_over_time(record: Record, place: int, seconds: float, width: float) -> list[tuple[float, float]]:
    """A node's share of attempts in percent, in slots of `width` seconds."""
    counts: dict[int, list[int]] = {}
    for moment, node in zip(record.picked, record.nodes, strict=True):
        slot = counts.setdefault(int(moment / width), [0, 0])
        slot[0] += node == place
        slot[1] += 1
    return [
        ((slot + 0.5) * width, 100 * mine / all_of_them)
        for slot, (mine, all_of_them) in sorted(counts.items())
        if (slot + 1) * width <= seconds
    ]


def save(result: Result, path: Path) -> None:
    """Draw a result's picture into a PNG."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    style = {
        "axes.grid": True,
        "grid.alpha": 0.3,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "font.size": 10,
        "legend.frameon": False,
    }
    with pyplot.rc_context(style):
        figure = pyplot.figure(figsize=result.size, layout="constrained")
        result.draw(figure)
        # No date and no version: the same figures make the same file.
        figure.savefig(path, dpi=110, metadata={"Software": None})
        pyplot.close(figure)
