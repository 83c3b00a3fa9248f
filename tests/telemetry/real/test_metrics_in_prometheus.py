"""What a real Prometheus has of three services: every metric, its labels, and that it counts rightly."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.processes import ROOT
from tests.telemetry.real.scene import METHOD, SHAPES, Recording

pytestmark = pytest.mark.telemetry

# What Prometheus adds by itself, and the scene to each place.
PLACE = {"__name__", "instance", "job", "node"}
CALLED = {"grpc_method", "grpc_target"}
ENDED = {*CALLED, "grpc_status"}
TARGET = {"grpc_target"}

# Each metric with its labels; a histogram by what it has of each label set once.
METRICS = {
    "grpc_server_call_started_total": {"grpc_method"},
    "grpc_server_call_duration_seconds_count": {"grpc_method", "grpc_status"},
    "grpc_client_call_duration_seconds_count": ENDED,
    "grpc_client_attempt_started_total": CALLED,
    "grpc_client_attempt_duration_seconds_count": ENDED,
    "grpc_client_call_retries_count": CALLED,
    "grpc_client_call_retry_delay_seconds_count": CALLED,
    "grpc_subchannel_disconnections_total": TARGET,
    "grpc_subchannel_connection_attempts_succeeded_total": TARGET,
    "grpc_subchannel_connection_attempts_failed_total": TARGET,
    "grpc_subchannel_open_connections": TARGET,
    "grpc_lb_outlier_detection_ejections_enforced_total": {
        *TARGET,
        "grpc_lb_outlier_detection_detection_method",
    },
    "grpc_lb_outlier_detection_ejections_unenforced_total": {
        *TARGET,
        "grpc_lb_outlier_detection_unenforced_reason",
    },
    "pymicro_server_calls_in_flight": {"grpc_method"},
    "pymicro_server_calls_refused_total": {"reason"},
    "pymicro_client_nodes": {*TARGET, "state"},
    "pymicro_client_node_changes_total": {*TARGET, "change"},
    "pymicro_client_panic": TARGET,
    "pymicro_client_retry_budget_exhausted_total": TARGET,
    "pymicro_client_pick_wait_seconds_count": TARGET,
    "pymicro_registry_age_seconds": {*TARGET, "registry"},
    "pymicro_registry_errors_total": {"registry", "reason"},
    "pymicro_registry_relists_total": {"registry"},
    "pymicro_registered": {"registry"},
    "pymicro_event_loop_lag_seconds_count": set(),
    "pymicro_build_info": {"version", "grpcio", "python", "registry", "balancer"},
}
# The scene plays in plain text; test_tls_in_prometheus.py has these.
WITH_CERTIFICATES: dict[str, set[str]] = {
    "pymicro_tls_certificate_expiry_timestamp_seconds": set(),
    "pymicro_tls_certificates_total": {"result"},
    "grpc_server_tls_handshakes_total": {"result"},
    "grpc_client_tls_handshakes_total": {"result"},
}
# Bounds of gRFC A66.
BOUNDS = (0.0003, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0)
STATES = {"known", "usable", "ready", "ejected", "probing", "warming", "other_zone"}


def metric_names(recording: Recording) -> set[str]:
    """All metrics of ours that Prometheus ever had, histograms by their `_count`."""
    names = {
        name
        for name in recording.prometheus.ask("label/__name__/values")
        if name.startswith(("grpc_", "pymicro_"))
    }
    histograms = {name.removesuffix("_bucket") for name in names if name.endswith("_bucket")}
    for histogram in histograms:
        assert {f"{histogram}_sum", f"{histogram}_count"} <= names
        names -= {f"{histogram}_sum", f"{histogram}_bucket"}
    return names


def test_each_metric_is_described_here(recording: Recording) -> None:
    assert metric_names(recording) == set(METRICS)


def described() -> Iterator[tuple[str, set[str]]]:
    """The rows of the page, as METRICS has them."""
    for line in (ROOT / "docs" / "operating.md").read_text().splitlines():
        row = re.match(r"\| (`(?:grpc|pymicro)_.*?) \| (counter|gauge|histogram).*? \| (.*)\|", line)
        if row is None:
            continue
        # After a colon stand the values of the last label.
        labels = set(re.findall(r"`(\w+)`", re.sub(":.*", "", row[3])))
        name = ""
        for whole, ending in re.findall(r"`(\w+)`|`…_(\w+)`", row[1]):
            name = whole or re.sub("succeeded_total$", ending, name)
            yield name + ("_count" if row[2] == "histogram" else ""), labels


def test_the_page_has_each_metric_with_its_labels() -> None:
    assert dict(described()) == METRICS | WITH_CERTIFICATES


@pytest.mark.parametrize("metric", METRICS)
def test_each_metric_is_there_with_its_labels_and_was_more_than_nothing(
    recording: Recording, metric: str
) -> None:
    series = recording.prometheus.ask(
        "series", **{"match[]": metric, "start": recording.begin, "end": recording.end}
    )
    assert series
    assert {frozenset(labels) - PLACE for labels in series} == {frozenset(METRICS[metric])}
    window = f"{round(recording.end - recording.begin) + 1}s"
    assert recording.prometheus.value(f"max(max_over_time({metric}[{window}]))", recording.end) > 0


def test_durations_have_grpcs_buckets(recording: Recording) -> None:
    for metric in (name for name in METRICS if name.endswith("_duration_seconds_count")):
        buckets = metric.replace("_count", "_bucket")
        found = recording.prometheus.query(f"count by (le) ({buckets})", recording.marks["well"])
        assert {float(sample["le"]) for sample in found} == {*BOUNDS, float("inf")}


def test_states_and_reasons_are_all_there_before_they_happen(recording: Recording) -> None:
    ask, well = recording.prometheus.query, recording.marks["well"]
    assert {each["state"] for each in ask("pymicro_client_nodes", well)} == STATES
    assert {each["reason"] for each in ask("pymicro_server_calls_refused_total", well)} == {
        "full",
        "expired",
        "unknown",
        "denied",
        "unauthenticated",
    }
    assert {each["reason"] for each in ask("pymicro_registry_errors_total", well)} == {"watch", "register"}


def ever(metric: str, job: str, *by: str) -> str:
    """The sum of a counter over all processes of a service, those that have ended too."""
    return f'sum by ({", ".join(by)}) (last_over_time({metric}{{job="{job}"}}[10m]))'


def test_prometheus_counts_exactly_the_calls_that_were_made(recording: Recording) -> None:
    found = recording.prometheus.query(
        ever("grpc_client_call_duration_seconds_count", "driver", "grpc_method", "grpc_status"),
        recording.marks["well"],
    )
    counted = {(each["grpc_method"], each["grpc_status"]): each.value for each in found}
    assert counted == recording.called
    assert {method for method, _ in counted} == {METHOD + shape for shape in SHAPES}
    assert counted[METHOD + "SayHello", "NOT_FOUND"] == 21
    assert counted[METHOD + "SayHello", "INTERNAL"] == 1


def test_each_attempt_of_a_client_is_a_call_of_a_server_through_a_rollout(recording: Recording) -> None:
    value, well = recording.prometheus.value, recording.marks["well"]
    calls = sum(recording.called.values())
    assert value(ever("grpc_client_attempt_started_total", "driver"), well) == calls + recording.retried
    for client, server in (("driver", "front"), ("front", "orders"), ("orders", "stock")):
        attempts = value(ever("grpc_client_attempt_started_total", client), well)
        assert attempts > 50
        assert value(ever("grpc_client_attempt_duration_seconds_count", client), well) == attempts
        assert value(ever("grpc_server_call_started_total", server), well) == attempts
        assert value(ever("grpc_server_call_duration_seconds_count", server), well) == attempts


def test_each_call_of_a_server_ran_one_handler(recording: Recording) -> None:
    """The handlers count by a counter of their own, in each process, those that have left too."""
    by = "sum by (node, grpc_method) (last_over_time({}{{job=~'front|orders|stock'}}[10m]))"
    well = recording.marks["well"]
    ask = recording.prometheus.query
    served: Counter[tuple[str, str]] = Counter()
    for each in ask(by.format("grpc_server_call_started_total"), well):
        served[each["node"], each["grpc_method"]] += int(each.value)
    ran: Counter[tuple[str, str]] = Counter()
    for each in ask(by.replace("grpc_method", "method").format("scene_handled_total"), well):
        ran[each["node"], each["method"]] += int(each.value)
    # `+` leaves out what is 0: methods that nobody has called.
    assert +served == +ran
    assert {node for node, _ in +ran} >= {f"orders-{number}" for number in range(1, 7)}


def test_retries_are_counted_with_how_many_and_how_long(recording: Recording) -> None:
    value, well = recording.prometheus.value, recording.marks["well"]
    of = 'last_over_time(grpc_client_call_{}{{job="driver",grpc_target="front"}}[10m])'
    assert value(of.format("retries_count"), well) == recording.retried
    assert value(of.format("retries_sum"), well) == recording.retried
    assert value(of.format("retry_delay_seconds_count"), well) == recording.retried
    # Each waited for up to 50 ms.
    assert 0 < value(of.format("retry_delay_seconds_sum"), well) < 0.05 * recording.retried


def test_a_rollout_is_three_nodes_that_came_and_three_that_left(recording: Recording) -> None:
    ask, well = recording.prometheus.query, recording.marks["well"]
    found = ask('sum by (change) (pymicro_client_node_changes_total{job="front",grpc_target="orders"})', well)
    # Two processes of `front` have seen six come, and three of them leave.
    assert {each["change"]: each.value for each in found} == {"add": 12, "remove": 6}
    states = ask('sum by (state) (pymicro_client_nodes{job="front",grpc_target="orders"})', well)
    assert {each["state"]: each.value for each in states} == {
        **dict.fromkeys(STATES, 0),
        **dict.fromkeys(("known", "usable", "ready"), 6),
    }
    assert {each.value for each in ask('grpc_subchannel_open_connections{job="front"}', well)} == {3}


def test_a_node_that_fails_is_ejected_and_of_many_only_one(recording: Recording) -> None:
    value = recording.prometheus.value
    ejected = 'sum(grpc_lb_outlier_detection_ejections_{}_total{{job="front",grpc_target="orders"}})'
    at = recording.marks["ejected"]
    assert value(ejected.format("enforced"), recording.marks["well"]) == 0
    assert value(ejected.format("enforced"), at) >= 1
    assert value('sum(pymicro_client_nodes{job="front",state="ejected"})', at) >= 1
    assert value(ejected.format("unenforced"), at) == 0
    assert value(ejected.format("unenforced"), recording.marks["all fail"]) > 0
    assert value("max(pymicro_client_retry_budget_exhausted_total)", recording.marks["all fail"]) > 0


def test_a_registry_that_is_away_ages_and_calls_go_on(recording: Recording) -> None:
    value, marks = recording.prometheus.value, recording.marks
    assert value('max(pymicro_registry_age_seconds{job="front"})', marks["well"]) < 20
    assert value('min(pymicro_registry_age_seconds{job="front"})', marks["registry is old"]) > 30
    errors = "sum(pymicro_registry_errors_total)"
    assert value(errors, marks["etcd killed"]) == 0
    assert value(errors, marks["registry is old"]) > 0
    made = 'sum(grpc_client_call_duration_seconds_count{job="driver",grpc_status="OK"})'
    assert value(made, marks["registry is old"]) > value(made, marks["panic"])
    assert value('max(pymicro_registry_age_seconds{job="front"})', marks["well again"]) < 20


def test_a_node_that_is_not_well_is_not_registered_and_comes_back(recording: Recording) -> None:
    ask, marks = recording.prometheus.query, recording.marks
    assert [each["node"] for each in ask("pymicro_registered == 0", marks["not registered"])] == ["stock-2"]
    assert {each.value for each in ask("pymicro_registered", marks["well again"])} == {1}


def test_what_no_handler_saw_is_counted_by_reason(recording: Recording) -> None:
    value, marks = recording.prometheus.value, recording.marks
    refused = 'sum(pymicro_server_calls_refused_total{{reason="{}"}})'
    assert value(refused.format("full"), marks["held"]) == 0
    assert value(refused.format("full"), marks["full"]) > 0
    assert value(refused.format("expired"), marks["full"]) > 0


def test_build_info_says_what_runs(recording: Recording) -> None:
    found = recording.prometheus.query('pymicro_build_info{job!="churn"}', recording.marks["well"])
    assert len(found) == 8  # seven nodes and the driver
    assert {(each["job"] == "front", each["registry"], each["balancer"], each.value) for each in found} == {
        (True, "etcd", "round_robin", 1),
        (False, "etcd", "p2c", 1),
    }


def test_exemplars_lead_from_a_bucket_to_a_trace(recording: Recording) -> None:
    """Prometheus asks for OpenMetrics by itself."""
    traces = {span.trace: span for span in recording.spans}
    for metric, job in (("server", "front"), ("client", "driver")):
        name = f"grpc_{metric}_call_duration_seconds_bucket"
        found = recording.prometheus.ask(
            "query_exemplars", query=f'{name}{{job="{job}"}}', start=recording.begin, end=recording.end
        )
        exemplars = [(each["seriesLabels"], one) for each in found for one in each["exemplars"]]
        assert len(exemplars) > 10
        for labels, one in exemplars:
            assert set(one["labels"]) == {"trace_id", "span_id"}
            assert float(one["value"]) <= float(labels["le"])
        ids = {span.id for span in recording.spans}
        known = [one for _, one in exemplars if one["labels"]["span_id"] in ids]
        assert len(known) == len(exemplars)
        assert {one["labels"]["trace_id"] for one in known} <= set(traces)
