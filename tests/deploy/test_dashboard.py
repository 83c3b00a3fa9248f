"""The dashboard as Grafana reads it. What its graphs show is for `make test-telemetry`."""

from __future__ import annotations

import json
from typing import Any

from tests.processes import ROOT

DASHBOARD: dict[str, Any] = json.loads((ROOT / "deploy" / "grafana" / "pymicro.json").read_text())
PANELS = DASHBOARD["panels"]


def test_it_has_a_row_for_each_thing_one_looks_at() -> None:
    rows = [panel["title"].partition(":")[0] for panel in PANELS if panel["type"] == "row"]
    assert rows == ["Service", "Client", "Discovery", "Runtime"]


def test_no_panel_lies_on_another() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in PANELS:
        place = panel["gridPos"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert x < 24
                assert (x, y) not in taken, f"{panel['title']} lies on {taken[x, y]}"
                taken[x, y] = panel["title"]


def test_ids_differ() -> None:
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    for panel in PANELS:
        ids = [target["refId"] for target in panel.get("targets", ())]
        assert len(set(ids)) == len(ids)


def test_everything_is_asked_of_the_chosen_prometheus_about_what_is_chosen() -> None:
    assert [each["name"] for each in DASHBOARD["templating"]["list"]] == ["datasource", "job", "instance"]
    for panel in PANELS:
        for target in panel.get("targets", ()):
            assert target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            # Each metric of an expression is narrowed down.
            assert target["expr"].count('{job=~"$job",instance=~"$instance"') == target["expr"].count("{")


def test_each_graph_says_what_one_learns_from_it() -> None:
    for panel in PANELS:
        assert panel["type"] == "row" or panel["description"].endswith(".")
