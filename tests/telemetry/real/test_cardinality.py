"""What strangers call, and nodes that come and go, do not fill a monitoring system."""

from __future__ import annotations

import pytest

from tests.telemetry.real.scene import UNKNOWN_PATHS, Recording

pytestmark = pytest.mark.telemetry


def test_ten_thousand_unknown_paths_are_one_method(recording: Recording) -> None:
    value, at = recording.prometheus.value, recording.marks["unknown paths"]
    other = '{node="stock-1",grpc_method="other"}'
    assert value(f"grpc_server_call_started_total{other}", at) == UNKNOWN_PATHS
    ended = f"grpc_server_call_duration_seconds_count{other}"
    assert [(each["grpc_status"], each.value) for each in recording.prometheus.query(ended, at)] == [
        ("UNIMPLEMENTED", UNKNOWN_PATHS)
    ]
    # One that has begun, one in flight, and a histogram: 16 buckets, sum and count.
    assert value('count({node="stock-1"})', at) == recording.series["stock"] + 20
    paths = recording.prometheus.ask("label/grpc_method/values")
    assert not [path for path in paths if "no.such" in path]


def test_a_thousand_nodes_that_came_and_went_leave_no_series(recording: Recording) -> None:
    prometheus, at = recording.prometheus, recording.marks["churned"]
    changes = prometheus.query('pymicro_client_node_changes_total{node="churn"}', at)
    assert {each["change"]: each.value for each in changes} == {"add": 1000, "remove": 950}
    # As many as with the first fifty, and never another one.
    series = prometheus.ask(
        "series", **{"match[]": '{node="churn"}', "start": recording.begin, "end": recording.end}
    )
    assert len(series) == recording.series["churn"]
    assert prometheus.value('grpc_subchannel_connection_attempts_succeeded_total{node="churn"}', at) >= 1000


def test_no_label_has_the_address_of_a_node(recording: Recording) -> None:
    ask = recording.prometheus.ask
    for label in set(ask("labels")) - {"instance"}:
        assert not [value for value in ask(f"label/{label}/values") if "127." in value], label


def test_no_process_of_a_service_has_many_series(recording: Recording) -> None:
    ours = '{job=~"front|orders|stock",node!="",__name__!~"up|scrape_.*"}'
    found = recording.prometheus.query(f"count by (node) ({ours})", recording.marks["well"])
    assert len(found) == 7
    assert max(each.value for each in found) < 600, found
