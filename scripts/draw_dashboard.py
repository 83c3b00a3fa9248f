"""Draws what the Grafana dashboard shows, from the same Prometheus.

    python -m scripts.draw_dashboard --prometheus URL --begin SECONDS --end SECONDS OUT

It asks what deploy/grafana asks. `make test-telemetry PICTURE=docs/dashboard.png` runs it on the services of
the tests. Needs matplotlib, of the group `bench`.
"""

from __future__ import annotations

import argparse
import json
import re
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DASHBOARD = ROOT / "deploy" / "grafana" / "pymicro.json"

# Okabe and Ito's palette, made for every kind of colour vision.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#999999", "#000000")
STYLES = ("-", "--", ":")
# Inches.
WIDTH, HEIGHT = 15.0, 2.8
# More lines have no room in a legend.
LEGEND = 6

Series = list[tuple[Mapping[str, str], list[tuple[float, float]]]]


class Source:
    """A Prometheus, and the time to look at."""

    def __init__(self, url: str, job: str, begin: float, end: float) -> None:
        self._url = url
        self._variables = {"$job": job, "$instance": ".+", "$__rate_interval": "5s"}
        self.begin = begin
        self.end = end

    def series(self, expression: str) -> Series:
        """What an expression was, second by second."""
        for name, value in self._variables.items():
            expression = expression.replace(name, value)
        query = urllib.parse.urlencode({"query": expression, "start": self.begin, "end": self.end, "step": 1})
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"{self._url}/api/v1/query_range?{query}", timeout=60) as answer:
            result = json.load(answer)["data"]["result"]
        return [
            (each["metric"], [(float(at), float(value)) for at, value in each["values"]]) for each in result
        ]


def draw(source: Source, marks: Sequence[tuple[float, str]], out: Path) -> None:
    """All panels, in their places, as a picture of a few colours."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    panels = json.loads(DASHBOARD.read_text())["panels"]
    rows = [panel for panel in panels if panel["type"] == "row"]
    graphs = [panel for panel in panels if panel["type"] != "row"]
    lines = sorted({graph["gridPos"]["y"] for graph in graphs})
    columns = sorted({graph["gridPos"]["x"] for graph in graphs})
    plt.rcParams.update(
        {"font.size": 7, "axes.titlesize": 8, "axes.spines.top": False, "axes.spines.right": False}
    )
    figure, places = plt.subplots(
        len(lines), len(columns), figsize=(WIDTH, HEIGHT * len(lines)), squeeze=False, sharex=True
    )
    for graph in graphs:
        axes = places[lines.index(graph["gridPos"]["y"])][columns.index(graph["gridPos"]["x"])]
        _graph(axes, graph, source, [at for at, _ in marks])
    figure.tight_layout(h_pad=6, rect=(0, 0.045, 1, 0.985))
    for row in rows:
        # A row's heading stands above the first graphs below it.
        first = lines.index(min(y for y in lines if y > row["gridPos"]["y"]))
        place = places[first][0].get_position()
        figure.text(0.008, place.y1 + 0.014, row["title"], fontsize=10, weight="bold")
    told = [f"{number}: {text}" for number, (_, text) in enumerate(marks, 1)]
    half = (len(told) + 1) // 2
    text = "\n".join(("Seconds along the bottom.    " + "    ".join(told[:half]), "    ".join(told[half:])))
    figure.text(0.008, 0.006, text, fontsize=8)
    _save(figure, out)
    plt.close(figure)


def _graph(axes: Any, graph: Mapping[str, Any], source: Source, marks: Sequence[float]) -> None:
    drawn = 0
    for target in graph["targets"]:
        for labels, values in source.series(target["expr"]):
            label = re.sub(
                r"\{\{(\w+)\}\}", lambda found, of=labels: of.get(found[1], ""), target["legendFormat"]
            )
            axes.plot(
                [at - source.begin for at, _ in values],
                [value for _, value in values],
                color=COLOURS[drawn % len(COLOURS)],
                linestyle=STYLES[drawn // len(COLOURS) % len(STYLES)],
                linewidth=1,
                label=label.replace("greeter.v1.Greeter/", ""),
            )
            drawn += 1
    for number, at in enumerate(marks, 1):
        axes.axvline(at - source.begin, color="#BBBBBB", linewidth=0.6)
        axes.text(
            at - source.begin,
            1.0,
            str(number),
            transform=axes.get_xaxis_transform(),
            fontsize=5,
            color="#888888",
        )
    unit = {"s": " [s]", "reqps": " [a second]", "bytes": " [bytes]", "ops": " [a second]"}.get(
        graph["fieldConfig"]["defaults"]["unit"], ""
    )
    axes.set_title(graph["title"] + unit, loc="left", pad=8)
    axes.set_ylim(bottom=0)
    axes.set_xlim(0, source.end - source.begin)
    axes.tick_params(labelbottom=True)
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        more = [*labels[:LEGEND]]
        if len(labels) > LEGEND:
            more[-1] += f", and {len(labels) - LEGEND} more"
        columns = 3 if max(map(len, more)) < 25 else 2 if max(map(len, more)) < 45 else 1
        below = {"loc": "upper left", "bbox_to_anchor": (-0.02, -0.12), "borderaxespad": 0}
        legend = axes.legend(
            handles[:LEGEND], more, fontsize=5.5, frameon=False, ncols=columns, columnspacing=1, **below
        )
        legend.set_in_layout(False)  # or the graph makes room for it


def _save(figure: Any, out: Path) -> None:
    from PIL import Image

    figure.savefig(out, dpi=96)
    # A repository keeps every version for ever: 32 colours are a quarter of the bytes.
    with Image.open(out) as picture:
        small = picture.convert("RGB").quantize(32, dither=Image.Dither.NONE)
    small.save(out, optimize=True)


def _mark(text: str) -> tuple[float, str]:
    at, _, name = text.partition("=")
    return float(at), name


def main() -> None:
    """Draw what the command line says."""
    parser = argparse.ArgumentParser(description="Draw what the Grafana dashboard shows.")
    parser.add_argument("--prometheus", required=True, metavar="URL")
    parser.add_argument("--job", default=".+", metavar="REGEX", help="which services")
    parser.add_argument("--begin", type=float, required=True, metavar="SECONDS", help="since 1970")
    parser.add_argument("--end", type=float, required=True, metavar="SECONDS")
    parser.add_argument("--mark", type=_mark, action="append", default=[], metavar="SECONDS=TEXT")
    parser.add_argument("out", type=Path)
    chosen = parser.parse_args()
    draw(Source(chosen.prometheus, chosen.job, chosen.begin, chosen.end), sorted(chosen.mark), chosen.out)


if __name__ == "__main__":
    main()
