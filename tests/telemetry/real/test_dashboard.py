"""Every graph of the dashboard has something to show, asked of a real Prometheus."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.processes import ROOT
from tests.telemetry.real.scene import Recording

pytestmark = pytest.mark.telemetry

DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "pymicro.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
LINES = [
    pytest.param(target, id=f"{panel['id']}{target['refId']} {panel['title']}")
    for panel in PANELS
    for target in panel["targets"]
]
VARIABLES = {"$job": ".+", "$instance": ".+", "$__rate_interval": "5s"}

# What of the scene the picture names.
SHOWN = {
    "well": "all is well after a rollout",
    "not registered": "a node of stock is not well",
    "etcd killed": "the registry is gone",
    "ejected": "one node of orders fails",
    "all fail": "all nodes of orders fail",
    "panic": "two of three are killed",
    "held": "the event loop of stock is held",
    "full": "stock is full",
    "registry is old": "the registry comes back",
}


def expression(text: str) -> str:
    """As Grafana sends it, with its variables filled in."""
    for name, value in VARIABLES.items():
        text = text.replace(name, value)
    assert "$" not in text
    return text


@pytest.mark.parametrize("target", LINES)
def test_each_line_of_each_graph_shows_something_in_the_scene(recording: Recording, target: Any) -> None:
    found = recording.prometheus.query_range(expression(target["expr"]), recording.begin, recording.end)
    # NaN, where nothing was divided by nothing, is not above 0.
    shown = [labels for labels, values in found if any(value > 0 for _, value in values)]
    assert shown, f"{target['expr']} is never more than nothing"
    wanted = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
    for labels in shown:
        assert wanted == set(labels), "the legend names other labels than the line has"


def test_each_choice_has_something_to_choose(recording: Recording) -> None:
    variables = {each["name"]: each for each in DASHBOARD["templating"]["list"]}
    assert list(variables) == ["datasource", "job", "instance"]
    for name in ("job", "instance"):
        query = expression(variables[name]["query"]["query"])
        found = re.fullmatch(r"label_values\((.+), (\w+)\)", query)
        assert found is not None
        assert found[2] == name
        series = recording.prometheus.ask("series", **{"match[]": found[1]})
        assert len({labels[name] for labels in series}) > 3


def test_the_dashboard_can_be_drawn(recording: Recording, tmp_path: Path) -> None:
    """`PICTURE` names the file to write, such as the one in docs."""
    out = Path(os.environ.get("PICTURE") or tmp_path / "dashboard.png")
    marks = [f"--mark={at}={SHOWN[name]}" for name, at in recording.marks.items() if name in SHOWN]
    subprocess.run(
        [
            *(sys.executable, "-m", "scripts.draw_dashboard"),
            f"--prometheus={recording.prometheus.url}",
            "--job=driver|front|orders|stock",
            f"--begin={recording.begin}",
            f"--end={recording.marks['load is over']}",
            *marks,
            out,
        ],
        cwd=ROOT,
        check=True,
        timeout=120,
    )
    assert out.read_bytes().startswith(b"\x89PNG")
    assert 20_000 < out.stat().st_size < 400_000
