"""Spans of calls, through OpenTelemetry's API; the program brings the SDK that sends them somewhere.

Attributes are those of OpenTelemetry's semantic conventions for gRPC (release candidate of 2026):
`rpc.system.name`, `rpc.method`, `rpc.response.status_code`, `error.type`, `server.address` (the
service's name), `network.peer.address`.
"""

from __future__ import annotations

import copy
import re
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from pymicro.base.loggers import logger
from pymicro.telemetry.statuses import STATUSES

__all__ = [
    "ServedSpan",
    "Tracing",
    "add_internal_error",
    "current_ids",
    "find_tracing",
    "trace_id_of",
]

log = logger("pymicro.telemetry")

Pair = tuple[str, str | bytes]

# What a server is to blame for; the other statuses are answers about a request.
_SERVER_FAULTS = frozenset({2, 4, 12, 13, 14, 15})

_told: set[str] = set()


# The sampled flag, and the form of a `traceparent` of the one version that there is (W3C Trace Context, 3.2).
_SAMPLED = 1
_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
# Samplers that look at nothing but the id of a trace that begins here, as they describe themselves.
_RATIO = re.compile(r"(?:ParentBased\{root:)?TraceIdRatioBased\{([0-9.e-]+)\}.*")
_UNSAMPLED = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f][02468ace]")
# What OpenTelemetry's default propagator reads and writes.
_DEFAULT_FIELDS = frozenset({"traceparent", "tracestate", "baggage"})
# What a method is called that the server does not know, since its name is only a caller's word. Such a
# span is named by the system (semantic conventions for RPC, "Name").
_OTHER = "_OTHER"
_LONGEST = 200


class Tracing:
    """Makes spans with the tracer of the program's SDK.

    Most calls of a program in production are not sampled, and a span that nobody keeps costs the SDK 8 µs
    and its propagators as much again. So what is known sooner is used sooner: a call within a trace that
    is not sampled gets no span of its own if the sampler would drop it. Its callees then get the ids of
    the span above, as they would from a program without an SDK.
    """

    def __init__(self) -> None:
        from opentelemetry import context, propagate, trace
        from opentelemetry.propagators.composite import CompositePropagator

        from pymicro.telemetry.passed_on import PassedOn, new_parent

        self._passed_on = PassedOn
        self._new_parent = new_parent
        self._context = context
        self._propagate = propagate
        self._trace = trace
        self._tracer: Any = trace.get_tracer("pymicro")
        self._nothing = context.Context()
        self._unsampled = trace.TraceFlags(0)
        propagator = propagate.get_global_textmap()
        plain = isinstance(propagator, CompositePropagator) and propagator.fields == _DEFAULT_FIELDS
        self._plain: Any = propagator if plain else None
        # Both are attributes of the SDK's own tracer. Whatever else there is decides by itself.
        sampler = getattr(self._tracer, "sampler", None)
        self._ids: Any = getattr(self._tracer, "id_generator", None)
        says = sampler.get_description() if sampler is not None and self._ids is not None else ""
        based = says.startswith("ParentBased{")
        self._drops_all = says == "AlwaysOffSampler"
        ratio = _RATIO.fullmatch(says)
        self._roots = _Roots(self._tracer, float(ratio[1])) if ratio is not None else None
        self._drops_remote = based and "remoteParentNotSampled:AlwaysOffSampler" in says
        self._drops_local = based and "localParentNotSampled:AlwaysOffSampler" in says

    # The calling end

    def begin_call(self, path: str, service: str, metadata: Any) -> tuple[Any, list[Pair]]:
        """A span for a call that begins, None if nobody keeps it; and the metadata to send.

        It is within the span that the running code is within; where there is none, within the one
        that the metadata name, as a gateway's may that got it in some other way. Its own
        `traceparent` replaces that one.

        Args:
            path: `/package.Service/Method`.
            service: The name that is looked up.
            metadata: Pairs, or None.
        """
        trace = self._trace
        above = self._context.get_current()
        current: Any = trace.get_current_span(above) if above else None
        span: Any = None
        if type(current) is self._passed_on and len(above) == 1 and self._is_plain():
            own: list[Pair] = [("traceparent", current.parent)]
        else:
            over = current.get_span_context() if current is not None else trace.INVALID_SPAN_CONTEXT
            if metadata and not over.is_valid:
                above, over = self._extract(metadata)
            roots = self._roots if not above and self._is_plain() else None
            dropped = roots.draw() if roots is not None else 0
            if not (dropped or self._drops(over)):
                name = path.removeprefix("/")
                attributes = {"rpc.system.name": "grpc", "rpc.method": name, "server.address": service}
                tracer = self._tracer if roots is None else roots.tracer
                span = tracer.start_span(name, above, trace.SpanKind.CLIENT, attributes)
                own = self._headers(span, above, over)
                span = span if span.is_recording() else None
            elif not above and self._is_plain():
                own = [("traceparent", self._new_parent(self._ids, dropped))]
            else:
                own = self._headers(trace.NonRecordingSpan(self._unkept(over)), above, over)
        if metadata:
            names = {key for key, _ in own}
            own = [*(pair for pair in metadata if pair[0] not in names), *own]
        return span, own

    def end_call(self, span: Any, code: int, peer: str, ended: int) -> None:
        """The call has ended with the status of this number.

        Args:
            peer: The address of its last node; empty if there was none.
            ended: When, in nanoseconds since 1970.
        """
        self._write_end(span, code)
        if peer:
            span.set_attribute("network.peer.address", peer)
        span.end(ended)

    def add_attempt(self, span: Any, code: int, peer: str, seconds: float, number: int, ended: int) -> None:
        """An attempt of a call with more than one has ended.

        Args:
            span: The call's.
            seconds: How long it took.
            number: 1 for the first.
            ended: When, in nanoseconds since 1970.
        """
        trace = self._trace
        child = self._tracer.start_span(
            "Attempt",
            context=trace.set_span_in_context(span),
            kind=trace.SpanKind.INTERNAL,
            attributes={"network.peer.address": peer, "pymicro.attempt": number},
            start_time=ended - int(seconds * 1e9),
        )
        self._write_end(child, code)
        child.end(ended)

    # The serving end

    def begin_served(self, path: str, metadata: Iterable[Pair]) -> ServedSpan | None:
        """A span for a call that is served; what this task does from now on is within it.

        Args:
            metadata: What the caller sent, with lower-case keys.

        Returns:
            None if nobody keeps it, and the caller's own is as good.
        """
        # Nothing is detached: a call has its own task, and so its own context.
        trace = self._trace
        tracer = self._tracer
        parent, more = _read(metadata)
        if not more and self._is_plain():
            passed: Any = None
            if _UNSAMPLED.fullmatch(parent):
                passed = self._passed_on(parent) if self._drops_remote or self._drops_all else None
            elif not parent and self._drops_all:
                passed = self._passed_on("", self._ids)
            elif not parent and self._roots is not None:
                dropped = self._roots.draw()
                passed = self._passed_on("", self._ids, dropped) if dropped else None
                tracer = self._roots.tracer
            if passed is not None:
                self._context.attach(trace.set_span_in_context(passed, self._nothing))
                return None
        above, over = self._extract(metadata)
        if self._drops(over):
            unkept = self._unkept(over)
            if unkept is over:
                self._context.attach(above)
                return None
            span: Any = trace.NonRecordingSpan(unkept)
        else:
            span = self._start_served(path.removeprefix("/"), above, {}, tracer)
        self._context.attach(trace.set_span_in_context(span, above))
        return ServedSpan(span, trace.StatusCode.ERROR)

    def add_refused(self, path: str, metadata: Iterable[Pair], code: int, *, known: bool) -> str:
        """A span for a call that was refused before a handler saw it, with the status of this number.

        Args:
            metadata: What the caller sent, with lower-case keys.
            known: Whether the server has a method at this path.

        Returns:
            The id of its trace.
        """
        above, over = self._extract(metadata)
        if self._drops(over):
            return _hex(self._unkept(over).trace_id)
        name = path.removeprefix("/")
        if known:
            span = self._start_served(name, above, {}, self._tracer)
        else:
            more = {"rpc.method_original": name[:_LONGEST]}
            span = self._start_served(_OTHER, above, more, self._tracer)
        served = ServedSpan(span, self._trace.StatusCode.ERROR)
        served.end(code)
        return served.trace_id

    def _start_served(self, method: str, above: Any, more: Mapping[str, str], tracer: Any) -> Any:
        attributes = {"rpc.system.name": "grpc", "rpc.method": method, **more}
        name = method if method != _OTHER else "grpc"
        return tracer.start_span(name, above, self._trace.SpanKind.SERVER, attributes)

    # Both

    def ids_of(self, span: Any) -> tuple[str, str] | None:
        """Trace and span, in hex, of a span that is sampled, so that somebody can look at it."""
        context = span.get_span_context()
        if not context.trace_flags & _SAMPLED:
            return None
        return _hex(context.trace_id), f"{context.span_id:016x}"

    def _drops(self, over: Any) -> bool:
        """Whether a span below this one is surely dropped."""
        if self._drops_all:
            return True
        if not over.is_valid or over.trace_flags & _SAMPLED:
            return False
        return self._drops_remote if over.is_remote else self._drops_local

    def _unkept(self, over: Any) -> Any:
        """The ids of a span below this one that is dropped: the same, unless these say that it is kept."""
        if over.is_valid and not over.trace_flags & _SAMPLED:
            return over
        ids, state = self._ids, over.trace_state if over.is_valid else None
        trace_id = over.trace_id if over.is_valid else ids.generate_trace_id()
        return self._trace.SpanContext(trace_id, ids.generate_span_id(), False, self._unsampled, state)

    def _headers(self, span: Any, above: Any, over: Any) -> list[Pair]:
        """What tells a callee of the span.

        Args:
            span: The call's.
            above: The context that it is in.
            over: The ids of the span there.
        """
        # Whatever else is in the context may be baggage, which the propagator knows.
        alone = not above or (len(above) == 1 and over.is_valid)
        if alone and self._is_plain():
            ids = span.get_span_context()
            parent = f"00-{ids.trace_id:032x}-{ids.span_id:016x}-{ids.trace_flags:02x}"
            state = ids.trace_state
            return (
                [("traceparent", parent), ("tracestate", state.to_header())]
                if state
                else [("traceparent", parent)]
            )
        carrier: dict[str, str] = {}
        self._propagate.inject(carrier, self._trace.set_span_in_context(span, above))
        return [(key.lower(), value) for key, value in carrier.items()]

    def _is_plain(self) -> bool:
        """Whether the propagator is the one that there is by default."""
        return self._plain is not None and self._plain is self._propagate.get_global_textmap()

    def _extract(self, metadata: Iterable[Pair]) -> tuple[Any, Any]:
        """The context that a caller sent, and the ids of the span there."""
        trace = self._trace
        parent, more = _read(metadata)
        if not more and self._is_plain():
            found = _TRACEPARENT.fullmatch(parent)
            if found is not None:
                ids = [int(part, 16) for part in found.groups()]
                over = trace.SpanContext(ids[0], ids[1], True, trace.TraceFlags(ids[2]))
                if over.is_valid:
                    return trace.set_span_in_context(trace.NonRecordingSpan(over), self._nothing), over
            if found is not None or not parent:
                return self._nothing, trace.INVALID_SPAN_CONTEXT
        texts = {key: value for key, value in metadata if isinstance(value, str)}
        above = self._propagate.extract(texts)
        return above, trace.get_current_span(above).get_span_context()

    def _write_end(self, span: Any, code: int) -> None:
        _write_end(span, code, self._trace.StatusCode.ERROR if code else None)


class _Roots:
    """Decides of a trace that begins here, as the SDK's sampler by the ids of traces does, and before it.

    Args:
        tracer: The SDK's.
        rate: The share of the traces that are kept.

    Attributes:
        tracer: Makes the span of a trace that is kept, with the id that was drawn for it.
    """

    def __init__(self, tracer: Any, rate: float) -> None:
        from opentelemetry.sdk.trace.sampling import TraceIdRatioBased

        self._limit, self._bound = TraceIdRatioBased.TRACE_ID_LIMIT, TraceIdRatioBased(rate).bound
        self._ids = tracer.id_generator
        self._drawn = _Drawn(self._ids)
        self.tracer = copy.copy(tracer)
        self.tracer.id_generator = self._drawn

    def draw(self) -> int:
        """The id of a new trace if it is dropped; 0 if it is kept, and then `tracer` is to make its span."""
        trace_id: int = self._ids.generate_trace_id()
        if trace_id & self._limit >= self._bound:
            return trace_id
        self._drawn.trace_id = trace_id
        return 0


class _Drawn:
    """An `id_generator` with one id that was drawn before."""

    def __init__(self, ids: Any) -> None:
        self._ids = ids
        self.trace_id = 0

    def generate_trace_id(self) -> int:
        """The one that was drawn, once."""
        drawn, self.trace_id = self.trace_id, 0
        return drawn or int(self._ids.generate_trace_id())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ids, name)


def _read(metadata: Iterable[Pair]) -> tuple[str, bool]:
    """The `traceparent` in metadata, and whether there is more for the default propagator."""
    parent, more = "", False
    for key, value in metadata:
        if key in _DEFAULT_FIELDS and value:
            if key == "traceparent" and isinstance(value, str):
                parent = value
            else:
                more = True
    return parent, more


class ServedSpan:
    """The span of a call that is served."""

    __slots__ = ("_error", "_span")

    def __init__(self, span: Any, error: Any) -> None:
        self._span = span
        self._error = error

    @property
    def sampled(self) -> bool:
        """Whether it is kept, so that somebody can look at it."""
        return bool(self._span.get_span_context().trace_flags & _SAMPLED)

    @property
    def trace_id(self) -> str:
        """The id of its trace, in hex."""
        return _hex(self._span.get_span_context().trace_id)

    @property
    def span_id(self) -> str:
        """Its own id, in hex."""
        return f"{self._span.get_span_context().span_id:016x}"

    def name_caller(self, title: str) -> None:
        """Say who calls, as his certificate proves it."""
        if self._span.is_recording():
            self._span.set_attribute("pymicro.caller", title)

    def end(self, code: int) -> None:
        """The call has ended with the status of this number."""
        if self._span.is_recording():
            _write_end(self._span, code, self._error if code in _SERVER_FAULTS else None)
        self._span.end()


def _hex(number: int) -> str:
    """The id of a trace, in hex."""
    return f"{number:032x}"


def trace_id_of(metadata: Mapping[str, str]) -> str:
    """The id of the trace that a caller's metadata name, in hex; empty if they name none."""
    found = _TRACEPARENT.fullmatch(metadata.get("traceparent", ""))
    return found[1] if found is not None else ""


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
