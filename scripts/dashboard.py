"""The Grafana dashboard of pymicro's services: `make papers` writes it to deploy/grafana.

A panel is a line here. In Grafana's own form it is fifty, and nobody sees what one says.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

__all__ = ["ROWS", "Panel", "dashboard"]

# What is shown is of these; `$job` and `$instance` are chosen above the panels.
HERE = 'job=~"$job",instance=~"$instance"'
RATE = "[$__rate_interval]"
# Grafana's width is 24.
WIDTH, HEIGHT = 8, 8
SOURCE = {"type": "prometheus", "uid": "${datasource}"}


@dataclass(frozen=True)
class Panel:
    """One graph.

    Attributes:
        title: Its heading.
        unit: Grafana's name of the unit.
        help: What one learns from it.
        lines: By legend, with labels as `{{label}}`: the expression.
    """

    title: str
    unit: str
    help: str
    lines: dict[str, str]


def rate(metric: str, by: str, more: str = "") -> str:
    """How often something happens, a second."""
    return f"sum by ({by}) (rate({metric}{{{HERE}{more}}}{RATE}))"


def quantiles(metric: str, by: str, legend: str) -> dict[str, str]:
    """Half of all, and all but one in a hundred, took no longer."""
    buckets = f"sum by ({by}, le) (rate({metric}_bucket{{{HERE}}}{RATE}))"
    return {
        f"p{percent} {legend}".rstrip(): f"histogram_quantile({percent / 100}, {buckets})"
        for percent in (50, 99)
    }


ERROR = ',grpc_status!="OK"'

ROWS = {
    "Service: the calls that it serves": [
        Panel(
            "Calls",
            "reqps",
            "Calls that begin, a second.",
            {"{{grpc_method}}": rate("grpc_server_call_started_total", "grpc_method")},
        ),
        Panel(
            "Calls that end in an error",
            "reqps",
            "All statuses but OK. NOT_FOUND and the like are answers; INTERNAL and UNAVAILABLE are not.",
            {
                "{{grpc_method}} {{grpc_status}}": rate(
                    "grpc_server_call_duration_seconds_count", "grpc_method, grpc_status", ERROR
                )
            },
        ),
        Panel(
            "How long calls take",
            "s",
            "From the first byte to the status. A stream counts when it ends, with all of its length.",
            quantiles("grpc_server_call_duration_seconds", "grpc_method", "{{grpc_method}}"),
        ),
        Panel(
            "Calls in flight",
            "short",
            "Calls that have begun and not ended; max_concurrent_calls limits them.",
            {"{{instance}}": f"sum by (instance) (pymicro_server_calls_in_flight{{{HERE}}})"},
        ),
        Panel(
            "Calls refused",
            "reqps",
            "No handler saw them. full: max_concurrent_calls is reached. expired: they came too late. "
            "unknown: there is no such method.",
            {"{{reason}}": rate("pymicro_server_calls_refused_total", "reason")},
        ),
        Panel(
            "Registered",
            "short",
            "How many nodes of the service its clients can find.",
            {"{{job}}": f"sum by (job) (pymicro_registered{{{HERE}}})"},
        ),
    ],
    "Client: the calls that it makes": [
        Panel(
            "Calls",
            "reqps",
            "Calls that end, a second, by the service that is called.",
            {"{{grpc_target}}": rate("grpc_client_call_duration_seconds_count", "grpc_target")},
        ),
        Panel(
            "Calls that end in an error",
            "reqps",
            "What the caller gets in the end, after all attempts.",
            {
                "{{grpc_target}} {{grpc_status}}": rate(
                    "grpc_client_call_duration_seconds_count", "grpc_target, grpc_status", ERROR
                )
            },
        ),
        Panel(
            "How long calls take",
            "s",
            "With all attempts, and all that they waited for.",
            quantiles("grpc_client_call_duration_seconds", "grpc_target", "{{grpc_target}}"),
        ),
        Panel(
            "Attempts for each call",
            "short",
            "1 while nothing is tried again. When everything fails it is at most 1.1.",
            {
                "{{grpc_target}}": rate("grpc_client_attempt_started_total", "grpc_target")
                + " / "
                + rate("grpc_client_call_duration_seconds_count", "grpc_target")
            },
        ),
        Panel(
            "Calls tried again",
            "reqps",
            "And those that were not, for the budget was spent: more fails than retries can heal.",
            {
                "{{grpc_target}}": rate("grpc_client_call_retries_count", "grpc_target"),
                "{{grpc_target}}: not, for the budget": rate(
                    "pymicro_client_retry_budget_exhausted_total", "grpc_target"
                ),
            },
        ),
        Panel(
            "Waiting",
            "s",
            "99 of 100 calls that had to wait for a node to be connected, or before another attempt, "
            "waited no longer.",
            {
                "{{grpc_target}} for a node": quantiles(
                    "pymicro_client_pick_wait_seconds", "grpc_target", ""
                )["p99"],
                "{{grpc_target}} before another attempt": quantiles(
                    "grpc_client_call_retry_delay_seconds", "grpc_target", ""
                )["p99"],
            },
        ),
    ],
    "Discovery: the nodes that it knows": [
        Panel(
            "Nodes",
            "short",
            "On the average of all clients. usable: calls may go there. ejected: its calls failed.",
            {
                "{{grpc_target}} {{state}}": "avg by (grpc_target, state) "
                f'(pymicro_client_nodes{{{HERE},state=~"known|usable|ready|ejected|other_zone"}})'
            },
        ),
        Panel(
            "Nodes that come and leave",
            "short",
            "In each step, seen by all clients together: a rollout is a hill, flapping is a plateau.",
            {
                "{{grpc_target}} {{change}}": "sum by (grpc_target, change) "
                f"(increase(pymicro_client_node_changes_total{{{HERE}}}{RATE}))"
            },
        ),
        Panel(
            "Nodes left out for their failures",
            "short",
            "And failures for which none could be left out, because too many others were. "
            "panic: less than half are well, so all are called.",
            {
                "{{grpc_target}} {{grpc_lb_outlier_detection_detection_method}}": "sum by "
                "(grpc_target, grpc_lb_outlier_detection_detection_method) "
                f"(increase(grpc_lb_outlier_detection_ejections_enforced_total{{{HERE}}}{RATE}))",
                "{{grpc_target}} could not be spared": "sum by (grpc_target) "
                f"(increase(grpc_lb_outlier_detection_ejections_unenforced_total{{{HERE}}}{RATE}))",
                "{{grpc_target}} panic": f"sum by (grpc_target) (pymicro_client_panic{{{HERE}}})",
            },
        ),
        Panel(
            "Connections",
            "short",
            "Open ones. Those that break or cannot be made, in each step.",
            {
                "{{grpc_target}} open": f"sum by (grpc_target) (grpc_subchannel_open_connections{{{HERE}}})",
                "{{grpc_target}} lost": "sum by (grpc_target) "
                f"(increase(grpc_subchannel_disconnections_total{{{HERE}}}{RATE}))",
                "{{grpc_target}} failed": "sum by (grpc_target) "
                f"(increase(grpc_subchannel_connection_attempts_failed_total{{{HERE}}}{RATE}))",
            },
        ),
        Panel(
            "Age of what the registry said",
            "s",
            "Up to a minute is usual. If it grows, the registry is away; calls go on with the last nodes.",
            {
                "{{job}}: {{grpc_target}}": "max by (job, grpc_target) "
                f"(pymicro_registry_age_seconds{{{HERE}}})"
            },
        ),
        Panel(
            "Failures of the registry",
            "short",
            "In each step, when it was watched and when nodes were registered; and how often all was read "
            "again, since a watch could not go on.",
            {
                "{{job}} {{reason}}": "sum by (job, reason) "
                f"(increase(pymicro_registry_errors_total{{{HERE}}}{RATE}))",
                "{{job}} read again": "sum by (job) "
                f"(increase(pymicro_registry_relists_total{{{HERE}}}{RATE}))",
            },
        ),
    ],
    "Runtime: the processes": [
        Panel(
            "How late the event loop is",
            "s",
            "How much later than meant it does what is due: code that blocks, or too little CPU.",
            quantiles("pymicro_event_loop_lag_seconds", "instance", "{{instance}}"),
        ),
        Panel(
            "CPU",
            "percentunit",
            "1 is a whole core, which is all that one process can use.",
            {"{{instance}}": rate("process_cpu_seconds_total", "instance")},
        ),
        Panel(
            "Memory",
            "bytes",
            "What of the process is in RAM.",
            {"{{instance}}": f"sum by (instance) (process_resident_memory_bytes{{{HERE}}})"},
        ),
        Panel(
            "Open files",
            "short",
            "Connections are among them.",
            {"{{instance}}": f"sum by (instance) (process_open_fds{{{HERE}}})"},
        ),
        Panel(
            "Garbage collections",
            "ops",
            "Each holds the event loop meanwhile, longest where there are many objects.",
            {"{{instance}}": rate("python_gc_collections_total", "instance")},
        ),
        Panel(
            "Processes by version",
            "short",
            "During a rollout there are two.",
            {
                "{{job}}: pymicro {{version}}, grpcio {{grpcio}}, Python {{python}}": "count by "
                f"(job, version, grpcio, python) (pymicro_build_info{{{HERE}}})"
            },
        ),
    ],
}


def dashboard() -> str:
    """The file, as Grafana imports it."""
    whole = {
        "title": "pymicro",
        "uid": "pymicro",
        "description": "gRPC services: the calls they serve and make, the nodes they know, their processes.",
        "tags": ["grpc", "pymicro"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": list(_variables())},
        "panels": list(_panels()),
    }
    return json.dumps(whole, indent=2, ensure_ascii=False) + "\n"


def _variables() -> Iterator[dict[str, Any]]:
    yield {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}
    for name, query in (
        ("job", "label_values(pymicro_build_info, job)"),
        ("instance", 'label_values(pymicro_build_info{job=~"$job"}, instance)'),
    ):
        yield {
            "name": name,
            "label": name,
            "type": "query",
            "datasource": SOURCE,
            "query": {"query": query, "refId": "variable"},
            "refresh": 2,  # whenever the range of time changes
            "includeAll": True,
            "multi": True,
            "allValue": ".+",
            "current": {"text": "All", "value": "$__all"},
        }


def _panels() -> Iterator[dict[str, Any]]:
    number = top = 0
    for row, panels in ROWS.items():
        number += 1
        yield {
            "id": number,
            "type": "row",
            "title": row,
            "collapsed": False,
            "panels": [],
            "gridPos": {"h": 1, "w": 24, "x": 0, "y": top},
        }
        top += 1
        for at, panel in enumerate(panels):
            number += 1
            column, line = at % (24 // WIDTH), at // (24 // WIDTH)
            yield _panel(
                panel, number, {"h": HEIGHT, "w": WIDTH, "x": column * WIDTH, "y": top + line * HEIGHT}
            )
        top += -(-len(panels) // (24 // WIDTH)) * HEIGHT


def _panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    return {
        "id": number,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.help,
        "datasource": SOURCE,
        "gridPos": place,
        "fieldConfig": {
            "defaults": {"unit": panel.unit, "min": 0, "custom": {"fillOpacity": 5, "showPoints": "never"}},
            "overrides": [],
        },
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {
                "refId": chr(ord("A") + at),
                "expr": expression,
                "legendFormat": legend,
                "datasource": SOURCE,
                # From a slow bucket to the trace of a slow call.
                "exemplar": "call_duration_seconds_bucket" in expression,
            }
            for at, (legend, expression) in enumerate(panel.lines.items())
        ],
    }
