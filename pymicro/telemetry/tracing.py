"""Spans of calls, through OpenTelemetry's API; the program brings the SDK that sends them somewhere.

Attributes are those of OpenTelemetry's semantic conventions for gRPC (release candidate of 2026):
`rpc.system.name`, `rpc.method`, `rpc.response.status_code`, `error.type`, `server.address` (the
service's name), `network.peer.address`.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable
from typing import Any

from pymicro.telemetry.statuses import STATUSES

__all__ = ["ServedSpan", "Tracing", "add_internal_error", "current_ids", "find_tracing"]

log = logging.getLogger("pymicro.telemetry")

Pair = tuple[str, str | bytes]

# What a server is to blame for; the other statuses are answers about a request.
_SERVER_FAULTS = frozenset({2, 4, 12, 13, 14, 15})

_told: set[str] = set()


class Tracing:
    """Makes spans with the tracer of the program's SDK."""

    def __init__(self) -> None:
        from opentelemetry import context, propagate, trace

        self._context = context
        self._propagate = propagate
        self._trace = trace
        self._tracer = trace.get_tracer("pymicro")

    # The calling end

    def begin_call(self, path: str, service: str, metadata: Any) -> tuple[Any, list[Pair]]:
        """A span for a call that begins, and the metadata to send with it.

        It is within the span that the running code is within; where there is none, within the one
        that the metadata name, as a gateway's may that got it in some other way. Its own
        `traceparent` replaces that one.

        Args:
            path: `/package.Service/Method`.
            service: The name that is looked up.
            metadata: Pairs, or None.
        """
        trace = self._trace
        name = path.removeprefix("/")
        attributes = {"rpc.system.name": "grpc", "rpc.method": name, "server.address": service}
        above = None  # the present context
        if metadata and not trace.get_current_span().get_span_context().is_valid:
            above = self._extract(metadata)
        span = self._tracer.start_span(name, above, trace.SpanKind.CLIENT, attributes)
        carrier: dict[str, str] = {}
        self._propagate.inject(carrier, trace.set_span_in_context(span))
        own = {key.lower(): value for key, value in carrier.items()}
        return span, [*(pair for pair in metadata or () if pair[0] not in own), *own.items()]

    def end_call(self, span: Any, code: int, peer: str) -> None:
        """The call has ended with the status of this number.

        Args:
            peer: The address of its last node; empty if there was none.
        """
        if span.is_recording():
            self._write_end(span, code)
            if peer:
                span.set_attribute("network.peer.address", peer)
        span.end()

    def add_attempt(self, span: Any, code: int, peer: str, seconds: float, number: int) -> None:
        """An attempt of a call with more than one has ended just now.

        Args:
            span: The call's.
            seconds: How long it took.
            number: 1 for the first.
        """
        if not span.is_recording():
            return
        trace, now = self._trace, time.time_ns()
        child = self._tracer.start_span(
            "Attempt",
            context=trace.set_span_in_context(span),
            kind=trace.SpanKind.INTERNAL,
            attributes={"network.peer.address": peer, "pymicro.attempt": number},
            start_time=now - int(seconds * 1e9),
        )
        self._write_end(child, code)
        child.end(end_time=now)

    # The serving end

    def begin_served(self, path: str, metadata: Iterable[Pair]) -> ServedSpan:
        """A span for a call that is served; what this task does from now on is within it.

        Args:
            metadata: What the caller sent, with lower-case keys.
        """
        trace = self._trace
        above = self._extract(metadata)
        name = path.removeprefix("/")
        attributes = {"rpc.system.name": "grpc", "rpc.method": name}
        span = self._tracer.start_span(name, above, trace.SpanKind.SERVER, attributes)
        # Never detached: a call has its own task, and so its own context.
        self._context.attach(trace.set_span_in_context(span, above))
        return ServedSpan(span, trace.StatusCode.ERROR)

    def _extract(self, metadata: Iterable[Pair]) -> Any:
        """The context that a caller sent."""
        return self._propagate.extract({key: value for key, value in metadata if isinstance(value, str)})

    def _write_end(self, span: Any, code: int) -> None:
        _write_end(span, code, self._trace.StatusCode.ERROR if code else None)


class ServedSpan:
    """The span of a call that is served."""

    __slots__ = ("_error", "_span")

    def __init__(self, span: Any, error: Any) -> None:
        self._span = span
        self._error = error

    def end(self, code: int) -> None:
        """The call has ended with the status of this number."""
        if self._span.is_recording():
            _write_end(self._span, code, self._error if code in _SERVER_FAULTS else None)
        self._span.end()


def _write_end(span: Any, code: int, error: Any) -> None:
    name = STATUSES[code]
    span.set_attribute("rpc.response.status_code", name)
    if error is not None:
        span.set_attribute("error.type", name)
        span.set_status(error)


def find_tracing(setting: str, end: str) -> Tracing | None:
    """What makes spans, if the program has set up OpenTelemetry's SDK; None otherwise.

    Args:
        setting: `tracing`: `auto` or `off`.
        end: `client` or `server`, of which other instrumentation may have one.
    """
    # A program that has set up the SDK has imported the API.
    trace = sys.modules.get("opentelemetry.trace")
    if setting == "off" or trace is None:
        return None
    provider = trace.get_tracer_provider()
    if isinstance(provider, (trace.ProxyTracerProvider, trace.NoOpTracerProvider)):
        return None
    if _instrumented(end):
        if end not in _told:
            _told.add(end)
            log.warning(
                "opentelemetry-instrumentation-grpc makes spans of this process's %s, so pymicro makes none; "
                "leave it out to get those of pymicro, which know retries and nodes",
                "calls" if end == "client" else "served calls",
            )
        return None
    return Tracing()


def _instrumented(end: str) -> bool:
    """Whether opentelemetry-instrumentation-grpc is at work on this end of grpc.aio."""
    package = sys.modules.get("opentelemetry.instrumentation.grpc")
    instrumentor = getattr(package, f"GrpcAioInstrumentor{end.capitalize()}", None)
    # Each class has one instance, and the constructor gives that.
    return instrumentor is not None and bool(instrumentor().is_instrumented_by_opentelemetry)


def current_ids() -> tuple[str, str] | None:
    """The ids of trace and span that the running code is within, in hex; None outside of one."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return None
    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return None
    return trace.format_trace_id(context.trace_id), trace.format_span_id(context.span_id)


def add_internal_error(error: BaseException, ident: str) -> None:
    """Write down, in the span that the running code is within, what a caller gets only the id of."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is not None:
        span = trace.get_current_span()
        if span.is_recording():
            span.record_exception(error, attributes={"pymicro.error_id": ident})
