"""What was counted, as metrics by the names that gRPC gives them.

Names, labels and buckets are gRPC's own (gRFC A66, A91, A94, A96, A118) in Prometheus' spelling, so
that they add up with those of services in Go, Java and C++. What gRPC has no name for begins
with `pymicro_`. Needs the extra `metrics`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, TypeVar

from pymicro.base.recorder import Durations, Exemplar, Recorder, TargetRecord
from pymicro.telemetry.statuses import STATUSES

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

    from pymicro.identity.keeper import IdentityKeeper

__all__ = ["Collector"]

# How many label sets are made at a time; one of a histogram is 18 lines.
HISTOGRAMS = 8
OTHERS = 100

REFUSALS = ("full", "expired", "unknown", "denied", "unauthenticated")
HANDSHAKES = ("ok", "failed", "begun")
NODE_STATES = ("known", "usable", "ready", "ejected", "probing", "warming", "other_zone")

T = TypeVar("T")
_Labels = tuple[str, ...]
_METHOD = ("grpc_method",)
_TARGET = ("grpc_target",)
_CALLED = ("grpc_method", "grpc_target")
_ENDED = ("grpc_method", "grpc_target", "grpc_status")


class Collector:
    """Makes metrics of what one service or client has counted, in pieces of bounded size.

    `collect` yields a large family as several of one name, one after the other; `exposition` writes
    them as one.

    Args:
        recorder: What was counted.
        info: Labels of `pymicro_build_info`: version, registry and the like.
        ages: Seconds since the registry last gave or confirmed the nodes of a service, by service.
        nodes: By service that is called how many nodes are in which state, and whether there is a panic.
        registered: Whether the service's node is registered; None for a client.
        relists: How often the registry's watches read all again; None if it does not tell.
        identity: The certificates; None if there are none.
    """

    def __init__(
        self,
        recorder: Recorder,
        *,
        info: Mapping[str, str],
        ages: Callable[[], Mapping[str, float]],
        nodes: Callable[[], Mapping[str, tuple[Mapping[str, int], bool]]] = dict,
        registered: Callable[[], bool] | None = None,
        relists: Callable[[], int | None] = lambda: None,
        identity: IdentityKeeper | None = None,
    ) -> None:
        self._recorder = recorder
        self._info = dict(info)
        self._ages = ages
        self._nodes = nodes
        self._registered = registered
        self._relists = relists
        self._identity = identity

    def collect(self) -> Iterator[Metric]:
        """All metrics. It may be left for a while between two of them: what is counted goes on."""
        yield from self._server()
        yield from self._calls()
        yield from self._targets()
        if self._identity is not None and self._identity.taken:  # scraped while it starts, it has none
            yield from self._certificates(self._identity)
        yield from self._process()

    def _server(self) -> Iterator[Metric]:
        server = self._recorder.server
        methods = [(_method(path), record) for path, record in server.methods.items()]
        yield from _counters(
            "grpc_server_call_started",
            "Calls that have begun.",
            _METHOD,
            (((method,), record.started) for method, record in methods),
        )
        yield from _histograms(
            "grpc_server_call_duration_seconds",
            "How long calls took.",
            ("grpc_method", "grpc_status"),
            (
                ((method, STATUSES[code]), durations)
                for method, record in methods
                for code, durations in list(record.ended.items())
            ),
        )
        yield from _gauges(
            "pymicro_server_calls_in_flight",
            "Calls that have not ended.",
            _METHOD,
            (((method,), record.in_flight) for method, record in methods),
        )
        yield from _counters(
            "pymicro_server_calls_refused",
            "Calls that no handler saw.",
            ("reason",),
            (((reason,), server.refused[reason]) for reason in REFUSALS),
        )

    def _calls(self) -> Iterator[Metric]:
        methods = [
            ((_method(path), target), record)
            for target, calls in self._recorder.targets.items()
            for path, record in calls.methods.items()
        ]
        yield from _histograms(
            "grpc_client_call_duration_seconds",
            "How long calls took, with all their attempts and waits.",
            _ENDED,
            (
                ((*called, STATUSES[code]), durations)
                for called, record in methods
                for code, durations in record.calls().items()
            ),
        )
        yield from _counters(
            "grpc_client_attempt_started",
            "Attempts that have begun.",
            _CALLED,
            ((called, record.started) for called, record in methods),
        )
        yield from _histograms(
            "grpc_client_attempt_duration_seconds",
            "How long attempts took.",
            _ENDED,
            (
                ((*called, STATUSES[code]), durations)
                for called, record in methods
                for code, durations in record.attempts().items()
            ),
        )
        retried = [(called, record) for called, record in methods if record.retries.count]
        yield from _histograms(
            "grpc_client_call_retries",
            "How often calls were tried again, of those that were.",
            _CALLED,
            ((called, record.retries) for called, record in retried),
        )
        yield from _histograms(
            "grpc_client_call_retry_delay_seconds",
            "How long calls waited between attempts, of those that did.",
            _CALLED,
            ((called, record.delays) for called, record in retried if record.delays.count),
        )

    def _targets(self) -> Iterator[Metric]:
        targets = list(self._recorder.targets.items())

        def counters(name: str, help_: str, value: Callable[[TargetRecord], int]) -> Iterator[Metric]:
            return _counters(name, help_, _TARGET, (((name,), value(target)) for name, target in targets))

        yield from counters(
            "grpc_subchannel_connection_attempts_succeeded",
            "Connections that were made.",
            lambda target: target.connected,
        )
        yield from counters(
            "grpc_subchannel_connection_attempts_failed",
            "Connections that could not be made.",
            lambda target: target.failed,
        )
        yield from counters(
            "grpc_subchannel_disconnections",
            "Connections that were lost or closed.",
            lambda target: target.disconnected,
        )
        yield from _gauges(
            "grpc_subchannel_open_connections",
            "Connections that are open.",
            _TARGET,
            (((name,), target.connected - target.disconnected) for name, target in targets),
        )
        yield from _counters(
            "grpc_lb_outlier_detection_ejections_enforced",
            "Nodes that were left out for their failures.",
            ("grpc_target", "grpc_lb_outlier_detection_detection_method"),
            (
                ((name, method), target.ejected[method])
                for name, target in targets
                for method in ("consecutive_failures", "failure_percentage")
            ),
        )
        yield from _counters(
            "grpc_lb_outlier_detection_ejections_unenforced",
            "Failures that were reason enough to leave out a node that could not be spared.",
            ("grpc_target", "grpc_lb_outlier_detection_unenforced_reason"),
            (((name, "max_ejection_overflow"), target.not_ejected) for name, target in targets),
        )
        yield from _counters(
            "pymicro_client_node_changes",
            "Nodes that came and nodes that left, of those that the client chooses from.",
            ("grpc_target", "change"),
            chain.from_iterable(
                (((name, "add"), target.added), ((name, "remove"), target.removed))
                for name, target in targets
            ),
        )
        yield from counters(
            "pymicro_client_retry_budget_exhausted",
            "Calls that were not tried again because too many others had been.",
            lambda target: target.unretried,
        )
        yield from _histograms(
            "pymicro_client_pick_wait_seconds",
            "How long calls waited for a node, of those that had to.",
            _TARGET,
            (((name,), target.waits) for name, target in targets),
        )

        nodes = self._nodes()
        yield from _gauges(
            "pymicro_client_nodes",
            "Nodes of a service that is called, by state; one may be in several.",
            ("grpc_target", "state"),
            (
                ((name, state), counts.get(state, 0))
                for name, (counts, _) in nodes.items()
                for state in NODE_STATES
            ),
        )
        yield from _gauges(
            "pymicro_client_panic",
            "Whether so few nodes are well that ejected ones are called too.",
            _TARGET,
            (((name,), int(panic)) for name, (_, panic) in nodes.items()),
        )

    def _certificates(self, identity: IdentityKeeper) -> Iterator[Metric]:
        if (end := identity.current.not_after) is not None:
            yield from _gauges(
                "pymicro_tls_certificate_expiry_timestamp_seconds",
                "When the certificate in use, or one of its chain, expires, in seconds since 1970.",
                (),
                [((), end)],
            )
        yield from _counters(
            "pymicro_tls_certificates",
            "Certificate files that were taken, and those that may not be used.",
            ("result",),
            [(("taken",), identity.taken), (("refused",), identity.refused)],
        )
        for end_of, counts, help_ in (
            ("server", identity.served, "Handshakes with callers, as far as is known."),
            ("client", identity.called, "Attempts at encrypted connections to nodes."),
        ):
            results = [result for result in HANDSHAKES if result in counts]
            rows = [((result,), counts[result]) for result in results]
            yield from _counters(f"grpc_{end_of}_tls_handshakes", help_, ("result",), rows)

    def _process(self) -> Iterator[Metric]:
        recorder, registry = self._recorder, self._info.get("registry", "")
        yield from _gauges(
            "pymicro_registry_age_seconds",
            "Time since the registry last gave or confirmed the nodes of a service.",
            ("grpc_target", "registry"),
            (((service, registry), age) for service, age in self._ages().items()),
        )
        yield from _counters(
            "pymicro_registry_errors",
            "Failures of the registry, when services were watched and when nodes were registered.",
            ("registry", "reason"),
            (((registry, reason), recorder.registry_errors[reason]) for reason in ("watch", "register")),
        )
        relists = self._relists()
        if relists is not None:
            yield from _counters(
                "pymicro_registry_relists",
                "How often all was read again, since a watch could not go on or its time was over.",
                ("registry",),
                [((registry,), relists)],
            )
        if self._registered is not None:
            registered = int(self._registered())
            yield from _gauges(
                "pymicro_registered",
                "Whether the service's node is registered.",
                ("registry",),
                [((registry,), registered)],
            )
        yield from _histograms(
            "pymicro_event_loop_lag_seconds",
            "How much later than meant the event loop did what was due.",
            (),
            [((), recorder.lag)],
        )
        yield from _gauges(
            "pymicro_build_info", "What runs here.", tuple(self._info), [(tuple(self._info.values()), 1)]
        )


def _some(rows: Iterable[T], count: int) -> Iterator[list[T]]:
    """The rows, a few at a time; `itertools.batched` came with Python 3.12."""
    each = iter(rows)
    while some := list(islice(each, count)):
        yield some


def _method(path: str) -> str:
    return path.removeprefix("/")


def _counters(
    name: str, help_: str, labels: _Labels, rows: Iterable[tuple[_Labels, float]]
) -> Iterator[Metric]:
    from prometheus_client.metrics_core import CounterMetricFamily

    return _values(CounterMetricFamily, name, help_, labels, rows)


def _gauges(
    name: str, help_: str, labels: _Labels, rows: Iterable[tuple[_Labels, float]]
) -> Iterator[Metric]:
    from prometheus_client.metrics_core import GaugeMetricFamily

    return _values(GaugeMetricFamily, name, help_, labels, rows)


def _values(
    make: Callable[..., Any], name: str, help_: str, labels: _Labels, rows: Iterable[tuple[_Labels, float]]
) -> Iterator[Metric]:
    for some in _some(rows, OTHERS):
        family = make(name, help_, labels=labels)
        for values, value in some:
            family.add_metric(values, value)
        yield family


def _histograms(
    name: str, help_: str, labels: _Labels, rows: Iterable[tuple[_Labels, Durations]]
) -> Iterator[Metric]:
    from prometheus_client.metrics_core import HistogramMetricFamily

    for some in _some(rows, HISTOGRAMS):
        family = HistogramMetricFamily(name, help_, labels=labels)
        for values, durations in some:
            family.add_metric(values, _buckets(durations), durations.total)
        yield family


def _buckets(durations: Durations) -> list[Any]:
    """Each bound with how many were within it, those within smaller bounds too; perhaps with an exemplar."""
    buckets: list[Any] = []
    within = 0
    exemplars = durations.exemplars
    for place, (bound, count) in enumerate(zip((*durations.bounds, None), durations.counts, strict=True)):
        within += count
        bucket = "+Inf" if bound is None else str(bound), float(within)
        found = exemplars.get(place) if exemplars is not None else None
        buckets.append(bucket if found is None else (*bucket, _exemplar(found)))
    return buckets


def _exemplar(found: Exemplar) -> Any:
    from prometheus_client.samples import Exemplar as Theirs

    # These labels are what Grafana and OpenTelemetry's collector look for.
    labels = {"trace_id": found.trace_id, "span_id": found.span_id}
    return Theirs(labels, found.value, round(found.moment, 3))
